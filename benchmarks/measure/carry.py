"""Fill a folder with the packages that a GPU machine without internet lacks.

python -m benchmarks.measure.carry [--python 3.12] [--cuda 130] [--into .carried]

On that machine: PYTHONPATH=.carried python -m benchmarks.measure
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from planner.base.command_line import fail
from planner.base.units import MIB

ROOT = Path(__file__).parents[2]
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
    "typer",
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", default="3.12", help="version there")
    parser.add_argument("--cuda", default="130", help="of torch there, without its point")
    parser.add_argument("--into", type=Path, default=ROOT / ".carried")
    options = parser.parse_args()
    for command in commands(options.into, python=options.python):
        subprocess.run(command, check=True)
    keep_one_library(options.into, options.cuda)
    size = folder_bytes(options.into)
    print(f"{options.into}: {size / MIB:.1f} MiB")
    if size > LARGEST_BYTES:
        fail(f"that is more than {LARGEST_BYTES // MIB} MiB, which is all that may travel", 1)


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
        fail(f"bitsandbytes has no {kept}: choose another --cuda", 2)
    for library in libraries:
        if library.name != kept:
            library.unlink()


def folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    main()
