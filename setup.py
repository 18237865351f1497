"""Finds the extension modules, builds the shared libraries they link with, compiles them.

Everything static is in pyproject.toml. The environment may say:

    QUICHE_H3_SYSTEM=1       use an installed quiche (see `build_quiche.sh --help`)
    QUICHE_H3_DEBUG_BUILD=1  assertions and counters of the C level (macro QH3_DEBUG), line tracing
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from Cython.Build import cythonize
from setuptools import Distribution, Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
PACKAGE = Path("quiche_h3")
LIBS = PACKAGE / "_libs"
MACOS = sys.platform == "darwin"
DEBUG = os.environ.get("QUICHE_H3_DEBUG_BUILD", "0") not in ("", "0")

DIRECTIVES = {
    "language_level": 3,
    "binding": True,
    "embedsignature": True,
    "freethreading_compatible": False,
    "annotation_typing": False,  # types come from the .pxd: an `int` here may be an IntEnum
    "linetrace": DEBUG,
}


def module_sources() -> list[Path]:
    """Every .pyx, and every .py that has a .pxd beside it (Cython's pure Python mode)."""
    pure = (path for path in PACKAGE.rglob("*.py") if path.with_suffix(".pxd").exists())
    return sorted([*PACKAGE.rglob("*.pyx"), *pure])


def extension(source: Path) -> Extension:
    """The extension module of one source; `x_io.c` beside `x.pyx` is part of it."""
    module = source.with_suffix("")
    beside = module.with_name(module.name + "_io.c")
    origin = "@loader_path" if MACOS else "$ORIGIN"
    up = "/.." * len(source.parent.relative_to(PACKAGE).parts)
    # Every module is offered both libraries; the linker keeps those it uses.
    keep_used = "-Wl,-dead_strip_dylibs" if MACOS else "-Wl,--as-needed"
    return Extension(
        ".".join(module.parts),
        [str(path) for path in (source, beside) if path.exists()],
        include_dirs=[
            str(LIBS / "include"),
            str(source.parent),
            str(PACKAGE / "_core"),
            *prefix_dirs("include"),
        ],
        library_dirs=prefix_dirs("lib"),
        extra_compile_args=["-O1", "-g"] if DEBUG else ["-O3", "-g0"],
        extra_link_args=[keep_used, str(LIBS / quiche_name()), "-lev", f"-Wl,-rpath,{origin}{up}/_libs"],
        define_macros=[("QH3_DEBUG", "1"), ("CYTHON_TRACE", "1")] if DEBUG else [],
        depends=[str(path) for path in sorted(PACKAGE.rglob("*.h"))],
    )


def quiche_name() -> str:
    return "libquiche.0.dylib" if MACOS else "libquiche.so.0"


def prefix_dirs(kind: str) -> list[str]:
    """Where BSD ports and Homebrew put libev, which their compilers do not search by themselves."""
    return [path for path in (f"/opt/homebrew/{kind}", f"/usr/local/{kind}") if Path(path).is_dir()]


def build_libraries() -> None:
    """Put libquiche, its headers and libev into the package; does next to nothing when they are there."""
    options = ["--system"] if os.environ.get("QUICHE_H3_SYSTEM", "0") not in ("", "0") else []
    environment = {**os.environ, "PYTHON": sys.executable}
    subprocess.run(["bash", "build_quiche.sh", *options], cwd=ROOT, env=environment, check=True)
    bundle_libev()


def bundle_libev() -> None:
    """Copy libev into the package, so that a wheel runs where it is not installed (ELF only).

    One copy serves every extension module: watchers made in one are started by another.
    """
    if MACOS:
        return
    compiler = os.environ.get("CC", "cc").split()
    found = subprocess.run(
        [*compiler, "-print-file-name=libev.so"], capture_output=True, text=True, check=True
    )
    library = Path(found.stdout.strip())
    if not library.is_absolute():
        library = Path("/usr/local/lib/libev.so")
    target = ROOT / LIBS / "libev.so.4"
    if library.exists() and not (target.exists() and target.read_bytes() == library.read_bytes()):
        target.unlink(missing_ok=True)  # a running process may have the old one mapped
        shutil.copyfile(library, target)


class BuildPy(build_py):
    """Runs before build_ext, and copies the package data: the libraries must be there by then."""

    def run(self) -> None:
        build_libraries()
        super().run()


class BuildExt(build_ext):
    def initialize_options(self) -> None:
        super().initialize_options()
        self.parallel = os.cpu_count()

    def finalize_options(self) -> None:
        # What timestamps do not tell: this file, the Python, the kind of build.
        self.state = ROOT / "build" / f"state-{sys.implementation.cache_tag}"
        parts = (Path(__file__).read_bytes(), sys.version.encode(), str(DEBUG).encode())
        self.fingerprint = hashlib.sha256(b"\0".join(parts)).hexdigest()
        changed = not self.state.exists() or self.state.read_text() != self.fingerprint
        self.distribution.ext_modules = cythonize(
            self.distribution.ext_modules or [],
            build_dir="build/cython",
            compiler_directives=DIRECTIVES,
            force=changed or None,
        )
        super().finalize_options()
        self.force = self.force or changed

    def run(self) -> None:
        build_libraries()
        super().run()
        self.state.parent.mkdir(exist_ok=True)
        self.state.write_text(self.fingerprint)


class BinaryDistribution(Distribution):
    """A wheel of ours is bound to its platform: it holds libquiche."""

    def has_ext_modules(self) -> bool:
        return True


def main() -> None:
    os.chdir(ROOT)
    commands: dict[str, Any] = {"build_py": BuildPy, "build_ext": BuildExt}
    setup(
        distclass=BinaryDistribution,
        cmdclass=commands,
        ext_modules=[extension(source) for source in module_sources()],
    )


main()
