"""The type stubs of the compiled modules say what the modules have."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted(
    ".".join(stub.relative_to(ROOT / "quiche_h3").with_suffix("").parts)
    for stub in (ROOT / "quiche_h3").rglob("*.pyi")
)
# What Cython adds, and signatures that it does not tell.
ALLOWED = r"""
.*\.__(reduce|setstate)_cython__
.*\.__test__
.*\.__pyx_capi__
quiche_h3\._core\.(fields\.Http3Limits|streams\.RequestStream|hq\.HqStream|http3_stream\.Stream)\.__init__
"""


@pytest.mark.slow
def test_stubs(tmp_path: Path) -> None:
    """A name, parameter or class that is in the module and not in its stub, or the reverse, is an error."""
    allowed = tmp_path / "allowed"
    allowed.write_text(ALLOWED)
    names = [f"quiche_h3.{name}" for name in MODULES]
    command = [
        sys.executable,
        "-m",
        "mypy.stubtest",
        *names,
        "--allowlist",
        str(allowed),
        "--ignore-unused-allowlist",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
