"""Builds the stand-in for libnvidia-ml and runs programs against it.

A machine is a text file in ``machines/``; ``launcher.simulated_gpu.machine_file`` says what it may
hold.
"""

import json
import os
import pickle
import shutil
import subprocess
import sys
from base64 import b64decode
from dataclasses import dataclass
from pathlib import Path

import pytest

from launcher.simulated_gpu.compile import compile_nvml
from planner.hardware.cluster import Cluster

HERE = Path(__file__).parent


def build(directory: Path) -> Path:
    """Compile the library into ``directory``."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler (cc) to build the stand-in for libnvidia-ml")
    return compile_nvml(directory)


def environment(library: Path, machine: str | Path, **more: str) -> dict[str, str]:
    """This process's environment, on that machine: a name in ``machines/`` or a file."""
    path = machine if isinstance(machine, Path) else HERE / "machines" / f"{machine}.txt"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CUDA_")}
    return {
        **kept,
        "LD_LIBRARY_PATH": str(library.parent),
        "SIMULATED_GPU_MACHINE": str(path),
        **more,
    }


def machine_text(name: str) -> str:
    return (HERE / "machines" / f"{name}.txt").read_text()


def edited(name: str, lines: str, directory: Path) -> Path:
    """A machine of the tests with more lines before its own."""
    path = directory / f"{name}-edited"
    path.write_text(f"{lines}\n{machine_text(name)}")
    return path


@dataclass(frozen=True)
class Answer:
    """Of a command: what it printed, and how it ended."""

    code: int
    out: str
    err: str


class Child:
    """One process that looks at many machines: the loader finds the stand-in at its start, and
    the stand-in reads the machine's file at every nvmlInit. Warnings are errors there."""

    def __init__(self, library: Path, scratch: Path) -> None:
        self._scratch = scratch
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "tests.nvml.child"],
            env=environment(library, "no-gpu"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def close(self) -> None:
        self._process.communicate(timeout=30)

    def detect(self, machine: str | Path, torch: str | None = None, **environ: str) -> Cluster:
        cluster = self._ask(machine, None, torch, environ)
        assert isinstance(cluster, Cluster), cluster
        return cluster

    def plan(
        self,
        machine: str | Path,
        *arguments: str,
        torch: str | None = None,
        columns: int = 80,
        cwd: Path | None = None,
        **environ: str,
    ) -> Answer:
        environ = {"COLUMNS": str(columns), **environ}
        answer = self._ask(machine, arguments, torch, environ, cwd)
        assert isinstance(answer, tuple), answer
        return Answer(*answer)

    def _ask(
        self,
        machine: str | Path,
        arguments: tuple[str, ...] | None,
        torch: str | None,
        environ: dict[str, str],
        cwd: Path | None = None,
    ) -> object:
        path = machine if isinstance(machine, Path) else HERE / "machines" / f"{machine}.txt"
        question = {
            "environ": {**environ, "SIMULATED_GPU_MACHINE": str(path)},
            "arguments": arguments,
            "torch": str(installed_torch(self._scratch, torch or "2.11.0+cu126")),
            "cwd": str(cwd or self._scratch),
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the child has ended"
        return pickle.loads(b64decode(line))


def installed_torch(scratch: Path, version: str) -> Path:
    """A directory for sys.path with a torch of this version: to be read, never imported."""
    root = scratch / f"torch-{version}"
    cuda = version.partition("+cu")[2]
    built = f"'{cuda[:-1]}.{cuda[-1]}'" if cuda.isdigit() else "None"
    package = root / "torch"
    if not package.exists():
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("raise AssertionError('torch was imported')\n")
        (package / "version.py").write_text(
            "from typing import Optional\n"
            f"__version__ = '{version}'\n"
            f"cuda: Optional[str] = {built}\n"
            "hip: Optional[str] = None\n"
        )
    return root
