"""What lies in the current folder, what other launchers have left, and where a run lies do not
change it."""

import shutil
import subprocess
import sys
from pathlib import Path

from tests.launcher.launching import TIME_LIMIT_S, Finished, environment, launch, write_plan

LEFT_OVER = {
    "ACCELERATE_USE_CPU": "1",
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_OFFLOAD_PARAMS": "true",
    "LOCAL_RANK": "1",
    "MASTER_ADDR": "192.0.2.1",
    "OMPI_COMM_WORLD_SIZE": "4",
    "PET_NNODES": "3",
    "PMI_SIZE": "2",
    "RANK": "1",
    "SLURM_NTASKS": "2",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
    "WORLD_SIZE": "8",
}
"""The address is one that nobody has (RFC 5737)."""


def test_a_run_is_as_planned_in_a_hostile_folder(folder: Path, tiny_checkpoint: Path) -> None:
    """Started as the console script is, without the current folder in the search path."""
    for name in ("datasets.py", "launcher.py", "planner.py", "torch/__init__.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("raise SystemExit('imported from here')", encoding="utf-8")
    write_plan(folder, model__source=str(tiny_checkpoint), training={"max_steps": 1})
    done = subprocess.run(
        [sys.executable, "-P", "-m", "launcher", "plan.yaml", "--data", "data.jsonl"],
        cwd=folder,
        env=environment(XDG_CACHE_HOME=str(folder / "cache"), **LEFT_OVER),
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (folder / "run" / "adapter").is_dir()


def test_a_run_and_its_data_may_be_moved(folder: Path, tiny_checkpoint: Path) -> None:
    """It resumes under its absolute path, and saves as often as it is told now."""
    training = {"max_steps": 4, "save_steps": 2}
    write_plan(folder, model__source=str(tiny_checkpoint), training=training)
    whole = launch(folder)
    assert whole.code == 0, whole.errors
    losses = whole.losses
    (whole.run / "report.json").unlink()
    shutil.rmtree(whole.run / "adapter")
    moved = whole.run.rename(folder / "run of yesterday")
    (folder / "data.jsonl").rename(folder / "facts.jsonl")
    shutil.rmtree(folder / "cache")

    options = ("--data", "facts.jsonl", "--set", "training.save_steps=1")
    done = launch(folder, "--resume", "--output", str(moved), *options)
    assert done.code == 0, done.errors
    assert "resuming from step 2" in done.errors
    assert Finished(0, "", "", moved).losses == losses
    saved = {path.name for path in (moved / "checkpoints").iterdir()}
    assert saved == {"checkpoint-2", "checkpoint-3"}
    assert not (folder / "run").exists()
