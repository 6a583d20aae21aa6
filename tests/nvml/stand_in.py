"""Builds the stand-in for libnvidia-ml and runs programs against it.

A machine is a text file in ``machines/``, a fact a line:

    driver TEXT           cuda NUMBER           12040 is 12.4
    init_error CODE       what nvmlInit answers
    refuse CALL CODE      what that call answers, for every device
    nvlink all            or ``nvlink 0 1`` for one pair
    gpu                   opens a GPU, ``slice NUMBER`` opens a MIG slice of the last one; then
        name TEXT         uuid TEXT
        memory_mib TOTAL RESERVED FREE
        process PID MIB   graphics PID MIB      -1 where the driver does not tell
        capability 8.9    power_watts NUMBER    the limit
        temperature_c NUMBER    draw_watts NUMBER    now
        pcie GENERATION LANES
        nvlinks NUMBER    active ones
        mig               MIG mode without a slice
        handle_error CODE what asking for this GPU answers

Codes are NVML's. What is left out is not supported by that GPU. ``#`` opens a comment.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def build(directory: Path) -> Path:
    """Compile the library into ``directory``."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler (cc) to build the stand-in for libnvidia-ml")
    library = directory / "libnvidia-ml.so.1"
    flags = ["-std=c11", "-Wall", "-Wextra", "-shared", "-fPIC"]
    subprocess.run(
        [compiler, *flags, str(HERE / "nvml_stub.c"), "-o", str(library)], check=True, timeout=120
    )
    return library


def environment(library: Path, machine: str | Path, **more: str) -> dict[str, str]:
    """This process's environment, on that machine: a name in ``machines/`` or a file."""
    path = machine if isinstance(machine, Path) else HERE / "machines" / f"{machine}.txt"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CUDA_")}
    return {
        **kept,
        "LD_LIBRARY_PATH": str(library.parent),
        "NVML_STUB_MACHINE": str(path),
        **more,
    }
