"""Fill a folder with the packages that a GPU machine without internet lacks.

python -m benchmarks.measure.carry [--python 3.12] [--cuda 130] [--into .carried]

On that machine: PYTHONPATH=.carried python -m benchmarks.measure
"""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from planner.base.command_line import Option, run_command
from planner.base.errors import InvalidRequestError
from planner.base.units import MIB

ROOT = Path(__file__).parents[2]
CARRIED = ROOT / ".carried"
CONSTRAINTS = ROOT / "constraints.txt"
WHEELS = (
    "trl",
    "bitsandbytes",
    "datasets",
    "dill",
    "multiprocess",
    "xxhash",
    "hjson",
    "msgspec",
    "pydantic",
    "pydantic_core",
    "annotated-types",
    "typing-inspection",
    "typing_extensions",
)
"""Packages to carry as wheels. Left out is what such a machine is expected to have: torch,
transformers, peft, accelerate, nvidia-ml-py and common packages (numpy, pandas, pyarrow, rich,
pyyaml, ...)."""
SOURCES = ("deepspeed",)
"""Packages that are published as source only; without compiled operators DeepSpeed is plain
Python."""
PLATFORMS = tuple(
    f"manylinux_2_{minor}_x86_64" for minor in (39, 34, 31, 28, 27, 26, 24, 17, 12, 5)
)
LARGEST_BYTES = 48 * MIB
"""Most bytes to carry, of 64 MiB in all, this project's files included."""


def carry(
    *,
    python: Annotated[str, Option("Version of Python there.", metavar="VERSION")] = "3.12",
    cuda: Annotated[
        str, Option("CUDA version of torch there, without its point.", metavar="VERSION")
    ] = "130",
    into: Annotated[Path, Option("Folder to fill; .carried if left out.", metavar="DIR")] = CARRIED,
) -> None:
    """Fill a folder with the packages that a GPU machine without internet lacks."""
    for command in commands(into, python=python):
        subprocess.run(command, check=True)
    keep_one_library(into, cuda)
    size = folder_bytes(into)
    print(f"{into}: {size / MIB:.1f} MiB")
    if size > LARGEST_BYTES:
        raise InvalidRequestError(
            f"only {LARGEST_BYTES // MIB} MiB may travel: carry fewer packages"
        )


def commands(into: Path, *, python: str) -> list[list[str]]:
    """Return the commands that fetch wheels for the Python of that machine, then build here what
    runs on any."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--upgrade", "--no-compile"]
    common = [*pip, "--no-deps", "--target", str(into)]
    platforms = [option for name in PLATFORMS for option in ("--platform", name)]
    return [
        [
            *(*common, "--only-binary", ":all:", "--implementation", "cp"),
            *("--python-version", python, *platforms, *pinned(WHEELS)),
        ],
        [*common, *pinned(SOURCES)],
    ]


def pinned(names: Sequence[str]) -> list[str]:
    """Return the requirements at the versions that the checks run with."""
    lines = CONSTRAINTS.read_text(encoding="utf-8").splitlines()
    versions = dict(line.split("==") for line in lines if "==" in line)
    known = {name.lower().replace("_", "-"): version for name, version in versions.items()}
    return [f"{name}=={known[name.lower().replace('_', '-')]}" for name in names]


def keep_one_library(into: Path, cuda: str) -> None:
    """Remove all of bitsandbytes' libraries but the one for this CUDA, 4 of 125 MB."""
    kept = f"libbitsandbytes_cuda{cuda}.so"
    libraries = sorted((into / "bitsandbytes").glob("libbitsandbytes_*.so"))
    if kept not in [library.name for library in libraries]:
        raise InvalidRequestError(f"bitsandbytes has no {kept}: choose another --cuda")
    for library in libraries:
        if library.name != kept:
            library.unlink()


def folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    sys.exit(run_command(carry))
