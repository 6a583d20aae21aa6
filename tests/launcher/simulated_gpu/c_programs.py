"""Small shared objects, compiled by the tests."""

import shutil
import subprocess
from pathlib import Path

import pytest


def compiled(folder: Path, name: str, source: str, *linked: Path) -> Path:
    """Compile C into a shared object of this name, linked with others."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler (cc)")
    path = folder / name
    file = path.with_suffix(".c")
    file.write_text(source)
    flags = ["-shared", "-fPIC", f"-Wl,-soname,{name}", "-Wl,--no-as-needed"]
    subprocess.run(
        ["cc", *flags, str(file), *map(str, linked), "-o", str(path)],
        check=True,
        capture_output=True,
    )
    return path
