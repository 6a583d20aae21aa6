"""What the tests of interrupted runs share."""

from pathlib import Path
from typing import Any

from launcher.lifecycle.resume import interrupted_plan, saved_state
from launcher.run.read_plan import read_plan
from launcher.run.run_directory import RunDirectory
from tests.launcher.forked import Launcher
from tests.launcher.launching import Finished

DROPOUT = {"rank": 4, "alpha": 8, "dropout": 0.1, "target_modules": "all-linear"}
SIX_STEPS: dict[str, Any] = {"max_steps": 6, "save_steps": 2}
"""Of an epoch of four."""
EVALUATION = {"every_steps": 2, "generated_samples": 1, "max_new_tokens": 4}


def resume(launcher: Launcher, folder: Path) -> Finished:
    """``launch plan.yaml --resume``."""
    run = RunDirectory(folder / "run")
    running = interrupted_plan(read_plan(folder / "plan.yaml"), run)
    saved, _ = saved_state(running, run)
    return launcher.run(folder, saved)


def rows(done: Finished) -> list[tuple[float, ...]]:
    """What must be equal bit by bit; the rest is time."""
    names = ("step", "loss", "grad_norm", "learning_rate")
    return [tuple(row[name] for name in names) for row in done.metrics]


def evaluations(done: Finished) -> str:
    file = done.run / "evaluation.jsonl"
    return file.read_text(encoding="utf-8") if file.exists() else ""
