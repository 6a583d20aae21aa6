"""``launch`` on simulated cards, with faults."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from launcher.simulated_gpu.environment import SITE
from tests.launcher.launching import REPOSITORY, Finished, environment, write_plan, write_samples
from tests.simulated.conftest import on_cards

SECONDS = 600
TESTS_SITE = Path(__file__).with_name("site")


def write_tiny(folder: Path, **sizes: int) -> int:
    """A small model, of a few thousand parameters if nothing else is asked, and samples; gives its
    number of parameters."""
    program = (
        "from pathlib import Path; from tests.launcher.tiny_model import write_tiny_model; "
        f"print(write_tiny_model(Path({str(folder / 'tiny')!r}), **{sizes!r}))"
    )
    done = on_cards("t4", sys.executable, "-c", program)
    assert done.returncode == 0, done.stderr
    write_samples(folder)
    return int(done.stdout.split()[-1])


def write_cuda_plan(folder: Path, gpu: str, **changes: Any) -> None:
    """The tests' small plan for a card, with the tiny model of the folder."""
    write_plan(
        folder,
        model__source=str(folder / "tiny"),
        hardware={
            "device": "cuda",
            "gpu": gpu,
            "device_name": gpu,
            "capacity_bytes": 15 * 2**30,
            "budget_bytes": 14 * 2**30,
        },
        **changes,
    )


def planned_on(cards: str, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """``plan --gpus auto`` for the tiny model of the folder on simulated cards."""
    asked = ["--model", str(folder / "tiny"), "--gpus", "auto"]
    data = ["--data", str(folder / "data.jsonl")]
    runner = [sys.executable, "-m", "launcher.simulated_gpu", cards]
    return subprocess.run(
        [*runner, sys.executable, "-m", "planner", *asked, *data, *options],
        cwd=folder,
        env=environment(HF_HUB_OFFLINE="1"),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def launch_on(cards: str, folder: Path, *options: str, fault: str = "") -> Finished:
    """``launch`` with these options on simulated cards; ``fault`` as in injected_faults.py."""
    path = os.pathsep.join(map(str, (TESTS_SITE, SITE, REPOSITORY)))
    runner = [sys.executable, "-m", "launcher.simulated_gpu", cards, "env", f"PYTHONPATH={path}"]
    done = subprocess.run(
        [*runner, sys.executable, "-m", "launcher", *options],
        cwd=folder,
        env=environment(
            TEST_FAULTS=fault,
            SIMULATED_GPU_FAULT=str(folder / "fault"),
            HF_HUB_OFFLINE="1",
        ),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    return Finished(done.returncode, done.stdout, done.stderr, folder / "run")
