"""Writes the field tables of docs/configuration.md from the declarations in quiche_h3/config.py.

`python docs/gen_config_table.py` rewrites the file; tests/test_config.py asserts that it is current.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "configuration.md"
BEGIN = "<!-- tables: made by docs/gen_config_table.py -->"
END = "<!-- end of tables -->"


def _default(field: dataclasses.Field[object], unit: str) -> str:
    from quiche_h3._options import show_number

    value = field.default if field.default is not dataclasses.MISSING else None
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return show_number(value, unit)
    if isinstance(value, list):
        return ", ".join(f"`{item}`" for item in value)
    return f"`{getattr(value, 'value', value)}`"


def tables() -> str:
    """The three tables: fields of both, of servers, of clients."""
    from quiche_h3.config import ClientConfig, ServerConfig, TransportConfig

    shared = {field.name for field in dataclasses.fields(TransportConfig)}
    lines: list[str] = []
    for title, cls, skip in (
        ("Servers", ServerConfig, shared),
        ("Servers and clients", TransportConfig, set[str]()),
        ("Clients", ClientConfig, shared),
    ):
        lines += [f"### {title}", "", "| Field | Default | Range | Meaning |", "|---|---|---|---|"]
        for field in dataclasses.fields(cls):
            if field.name not in skip:
                option = field.metadata["option"]
                default = _default(field, option.unit)
                lines.append(f"| `{field.name}` | {default} | {option.range_text()} | {option.doc} |")
        lines.append("")
    return "\n".join(lines)


def render(page: str) -> str:
    """`page` with its tables made anew."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{tables()}\n{END}{after}"


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    PAGE.write_text(render(PAGE.read_text("utf-8")), "utf-8")
