"""What the build makes: the shared library, the extension modules, the wheel and the sdist."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

import quiche_h3

PACKAGE = Path(quiche_h3.__file__).parent
LIBS = PACKAGE / "_libs"
ROOT = PACKAGE.parent
QUICHE = LIBS / ("libquiche.0.dylib" if sys.platform == "darwin" else "libquiche.so.0")

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="reads ELF files with binutils")


def run(*command: str | Path, cwd: Path = ROOT, **environment: str) -> str:
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{command}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def declared_functions() -> set[str]:
    """Every function that the C headers beside the library declare."""
    text = "".join(header.read_text() for header in sorted((LIBS / "include").glob("*.h")))
    text = text[: text.index("#else\n\nstatic inline")] if "#else\n\nstatic inline" in text else text
    text = re.sub(r"//.*|/\*.*?\*/", "", text)
    return set(re.findall(r"\b(quiche_\w+)\s*\(", text))


def extension_modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*" + str(sysconfig.get_config_var("EXT_SUFFIX"))))


def test_library_exports_all_that_its_headers_declare() -> None:
    """The ABI that the .pxd files rely on is whole: LTO and --gc-sections dropped no C function."""
    library = ctypes.CDLL(str(QUICHE))
    declared = declared_functions()
    assert len(declared) > 170
    assert {name for name in declared if not hasattr(library, name)} == set()


def test_library_is_the_pinned_version() -> None:
    """The library is the quiche that Cargo.toml pins, not another one of the same name."""
    manifest = (ROOT / "third_party/quiche/Cargo.toml").read_text()
    pinned = re.search(r'quiche = \{ version = "=([\d.]+)"', manifest)
    assert pinned
    version = ctypes.CDLL(str(QUICHE)).quiche_version
    version.restype = ctypes.c_char_p
    assert version().decode() == pinned[1]


def test_additional_settings_are_checked() -> None:
    """RFC 9114 section 7.2.4: a setting occurs once; those that quiche sends itself are refused."""
    library = ctypes.CDLL(str(QUICHE))
    library.quiche_h3_config_new.restype = ctypes.c_void_p
    library.quiche_h3_config_set_additional_settings.argtypes = [
        ctypes.c_void_p,
        ctypes.POINTER(ctypes.c_uint64),
        ctypes.c_size_t,
    ]
    library.quiche_h3_config_free.argtypes = [ctypes.c_void_p]
    config = library.quiche_h3_config_new()

    def set_pairs(*values: int) -> int:
        array = (ctypes.c_uint64 * len(values))(*values) if values else None
        return int(library.quiche_h3_config_set_additional_settings(config, array, len(values) // 2))

    settings_error = -14
    assert set_pairs(0x2B603742, 1, 0xC671706A, 16) == 0
    assert set_pairs() == 0
    assert set_pairs(0x2B603742, 1, 0x2B603742, 2) == settings_error
    assert set_pairs(0x33, 1) == settings_error  # SETTINGS_H3_DATAGRAM
    library.quiche_h3_config_free(config)


@linux_only
def test_extension_modules_share_the_bundled_libraries() -> None:
    """One libquiche and one libev for all modules, found inside the package whatever is installed."""
    modules = extension_modules()
    assert modules
    used = set()
    for module in modules:
        resolved = dict(re.findall(r"(\S+) => (\S+)", run("ldd", module)))
        for name in ("libquiche.so.0", "libev.so.4"):
            if name in resolved:
                assert Path(resolved[name]).resolve() == (LIBS / name).resolve(), module
                used.add(name)
    assert used == {"libquiche.so.0", "libev.so.4"}


@linux_only
def test_library_soname() -> None:
    """The name that modules ask the loader for is the name the file has."""
    assert "soname: [libquiche.so.0]" in run("readelf", "-d", QUICHE)


def test_build_script_is_idempotent() -> None:
    """A second run builds nothing and says where the result lies."""
    before = QUICHE.stat().st_mtime_ns
    assert run("bash", "build_quiche.sh").strip().endswith("_libs")
    assert QUICHE.stat().st_mtime_ns == before


def copy_of_sources(directory: Path) -> Path:
    """Just enough of a clone for build_quiche.sh to work in."""
    clone = mkdir(directory / "clone")
    run("cp", "-R", ROOT / "third_party", ROOT / "build_quiche.sh", clone)
    return clone


def test_tools_that_are_missing_are_named(tmp_path: Path) -> None:
    """Where nothing may be installed, one message names what is missing and how to get it."""
    programs = mkdir(tmp_path / "bin")
    for name, output in (("id", "1000"), ("rustc", "rustc 1.60.0 (abc 2022-04-04)"), ("rustup", "")):
        (programs / name).write_text(f"#!/bin/sh\necho '{output}'\ntest {name} != rustup\n")
        (programs / name).chmod(0o755)
    done = subprocess.run(
        ["bash", ROOT / "build_quiche.sh", "--check-tools"],
        env={**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "PYTHON": "/nowhere/python"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "sudo apt-get install python3-dev" in done.stderr
    assert "Rust 1.88 or newer (found: rustc 1.60.0" in done.stderr
    assert "rustup toolchain install" in done.stderr


def test_installed_quiche_is_used_on_request(tmp_path: Path) -> None:
    """--system takes library and header from QUICHE_PREFIX, and says that our own functions are not in it."""
    prefix, clone = tmp_path / "prefix", copy_of_sources(tmp_path)
    run("mkdir", "-p", prefix / "lib", prefix / "include")
    run("cp", QUICHE, prefix / "lib" / f"libquiche{QUICHE.suffix if sys.platform == 'darwin' else '.so'}")
    run("cp", LIBS / "include/quiche.h", prefix / "include")
    libs = Path(run("bash", clone / "build_quiche.sh", "--system", QUICHE_PREFIX=str(prefix)).strip())
    assert libs == clone / "quiche_h3/_libs"
    assert (libs / QUICHE.name).read_bytes() == QUICHE.read_bytes()
    assert (libs / "include/quiche_h3_extra.h").read_text().startswith("#define QUICHE_H3_NO_EXTRA 1\n")

    program = tmp_path / "extra.c"
    program.write_text(
        '#include <stdbool.h>\n#include "quiche_h3_extra.h"\n'
        "int main(void) { uint64_t pair[2] = {1, 2};\n"
        "return quiche_h3_config_set_additional_settings(0, pair, 1) != QUICHE_H3_EXTRA_UNSUPPORTED; }\n"
    )
    run("cc", "-Wall", "-Werror", "-I", libs / "include", program, "-o", tmp_path / "extra")
    run(tmp_path / "extra")


@pytest.mark.slow
def test_patch_that_does_not_fit_is_named(tmp_path: Path) -> None:
    """A patch is never applied in part or in another place: the build stops and says which it is."""
    sources = Path(run("bash", "build_quiche.sh", "--print-sources").strip())
    copy = copy_of_sources(tmp_path)
    cache = mkdir(tmp_path / "cache")
    work = mkdir(cache / sources.parent.name)
    for name in ("pristine", "vendor", "quiche-name"):
        run("cp", "-R", sources.parent / name, work / name)
    patch = next((copy / "third_party/quiche/patches").glob("0001-*.patch"))
    patch.write_text(patch.read_text().replace("let was_flushable", "let was_something_else"))
    done = subprocess.run(
        ["bash", copy / "build_quiche.sh"],
        env={**os.environ, "QUICHE_H3_CACHE": str(cache)},
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert f"{patch.name} does not fit" in done.stderr
    assert not (copy / "quiche_h3/_libs").exists()


def mkdir(path: Path) -> Path:
    path.mkdir()
    return path


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sdist of this tree, and the wheel that is built from it, as `pip install` of the sdist does."""
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ROOT)
    (sdist,) = out.glob("*.tar.gz")
    (wheel,) = out.glob("*.whl")
    return sdist, wheel


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_sdist_holds_sources_only(distributions: tuple[Path, Path]) -> None:
    """All that a build needs, and nothing that a build made."""
    with tarfile.open(distributions[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"build_quiche.sh", "third_party/quiche/Cargo.lock"} <= names
    assert {"quiche_h3/ev.pyx", "quiche_h3/ev.pxd", "quiche_h3/py.typed"} <= names
    assert [name for name in names if re.search(r"\.so|_libs/|^build/|__pycache__", name)] == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_wheel_holds_its_libraries(distributions: tuple[Path, Path]) -> None:
    """The wheel is bound to its platform and brings libquiche, libev, the types and the licences."""
    wheel = distributions[1]
    assert not wheel.name.endswith("none-any.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"quiche_h3/_libs/{QUICHE.name}", "quiche_h3/py.typed", "quiche_h3/ev.pyi"} <= names
    if sys.platform == "linux":
        assert "quiche_h3/_libs/libev.so.4" in names
    built = {Path(name).name for name in names}
    assert {module.name for module in extension_modules()} <= built
    assert {"quiche.txt", "boringssl.txt", "libev.txt"} <= built
    assert [name for name in names if name.endswith((".pyx", ".c", ".h"))] == []


@pytest.mark.slow
@linux_only
@pytest.mark.timeout(600)
def test_wheel_runs_by_itself(distributions: tuple[Path, Path], tmp_path: Path) -> None:
    """Installed where nothing else of the project is, its modules load and use their own libraries."""
    venv.create(tmp_path / "venv", with_pip=False, symlinks=True)
    python = tmp_path / "venv/bin/python"
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('platlib'))", cwd=tmp_path).strip()
    zipfile.ZipFile(distributions[1]).extractall(site)
    program = (
        "import re, quiche_h3.ev, quiche_h3._core.endpoint\n"
        "maps = open('/proc/self/maps').read()\n"
        "print(*sorted(set(re.findall(r'\\S*/lib(?:ev|quiche)\\.so\\S*', maps))))"
    )
    dependencies = next(path for path in sys.path if path.endswith("site-packages"))
    loaded = run(python, "-c", program, cwd=tmp_path, PYTHONPATH=f"{site}:{dependencies}").split()
    assert loaded == [f"{site}/quiche_h3/_libs/libev.so.4", f"{site}/quiche_h3/_libs/libquiche.so.0"]
