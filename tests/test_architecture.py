"""The layer rule of docs/architecture.md, held against the imports of every module."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "quiche_h3"
ROOT_PLACE = (
    9  # the package root, as in `from . import connect`: above the programs, for the command line alone
)
_CIMPORT = re.compile(r"^\s*from\s+quiche_h3\.([\w.]+)\s+cimport\s+(\w+)", re.MULTILINE)
_PY_IMPORT = re.compile(
    r"^(?:from\s+quiche_h3(?:\.([\w.]+))?\s+import\s+(.+)|import\s+quiche_h3)", re.MULTILINE
)


def layers() -> dict[str, int]:
    """Module name -> place of its layer in the page's table."""
    rows = re.findall(
        r"^\| ([a-z0-9 ]+) \| ([\w., ]+) \|", (ROOT / "docs/architecture.md").read_text(), re.MULTILINE
    )
    table = [modules for name, modules in rows if name != "layer"]
    return {module.strip(): place for place, modules in enumerate(table) for module in modules.split(",")}


def sources() -> dict[str, list[Path]]:
    """Module name -> its files."""
    found: dict[str, list[Path]] = {}
    for path in sorted(PACKAGE.rglob("*.p*")):
        if path.suffix in (".py", ".pyx", ".pxd") and path.name != "__init__.py":
            name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
            found.setdefault(name, []).append(path)
    return found


def imports(module: str, path: Path) -> Iterator[str]:
    """The modules of the package that a file imports or cimports, imports for type checkers left out."""
    text = path.read_text()
    if path.suffix != ".py":
        for target, name in _CIMPORT.findall(text):
            yield f"{target}.{name}" if f"{target}.{name}" in sources() else target
        for target, names in _PY_IMPORT.findall(text):
            yield from ([target] if target else [n.strip() for n in names.split(",")])
        return
    tree = ast.parse(text)
    skipped = {
        child
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for child in ast.walk(node)
    }
    package = ["quiche_h3", *module.split(".")[:-1]]
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or node in skipped:
            continue
        base = package[: len(package) - node.level + 1] if node.level else []
        full = [*base, *(node.module or "").split(".")] if node.module else base
        if full[:1] == ["quiche_h3"]:
            target = ".".join(full[1:])
            for alias in node.names:
                inner = f"{target}.{alias.name}".lstrip(".")
                yield inner if inner in sources() else target


def test_every_module_has_a_layer() -> None:
    """docs/architecture.md, Layers: the table names every module, and no other."""
    assert set(layers()) == set(sources())
    assert {place for module, place in layers().items() if place > ROOT_PLACE} == {layers()["cli"]}


@pytest.mark.parametrize("module", sorted(sources()))
def test_imports_point_left(module: str) -> None:
    """docs/architecture.md, Layers: imports come from the own layer or from one above it in the table."""
    place = layers()
    wrong = {
        target
        for path in sources()[module]
        for target in imports(module, path)
        if place.get(target, ROOT_PLACE) > place[module]
    }
    assert not wrong, f"{module} imports {sorted(wrong)}"


def test_the_rule_bites() -> None:
    """The reading of imports sees what it must: cimports, imports inside functions, and relative ones."""
    assert "_core.http3_state" in set(imports("_core.http3", PACKAGE / "_core/http3.pxd"))
    assert "asyncio_driver" in set(imports("server", PACKAGE / "server.py"))
    assert "_core.endpoint" in set(imports("server", PACKAGE / "server.py"))
