"""Programs on simulated cards, where the CUDA build of PyTorch is installed."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from launcher.simulated_gpu.compile import cuda_libraries
from planner.base.errors import InvalidRequestError
from tests.launcher.launching import REPOSITORY, environment

SECONDS = 300


def has_cuda_build() -> bool:
    """Whether the installed torch can run on simulated cards."""
    try:
        return bool(cuda_libraries())
    except InvalidRequestError:
        return False


@pytest.fixture(autouse=True, scope="session")
def _cuda_build() -> None:
    if not has_cuda_build():
        pytest.skip("needs the CUDA build of torch: make simulated")


def on_cards(cards: str, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command on simulated cards."""
    runner = [sys.executable, "-m", "launcher.simulated_gpu", cards]
    return subprocess.run(
        [*runner, *command],
        capture_output=True,
        text=True,
        env=environment(**variables),
        cwd=REPOSITORY,
        timeout=SECONDS,
        check=False,
    )


def facts(cards: str, program: str, *arguments: str, **variables: str) -> Any:
    """Return what a program on simulated cards prints in its last line, as JSON."""
    path = str(Path(__file__).with_name(f"{program}.py"))
    done = on_cards(cards, sys.executable, path, *arguments, **variables)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
