"""What only the environment holds stays there: in no file of a run, in no job, in no output."""

from pathlib import Path

import pytest

from tests.launcher.launching import Finished, launch, write_plan, write_records, write_samples
from tests.planner.base.test_printable import HOSTILE, SHOWN

SECRETS = {
    "HF_TOKEN": "hf_neverwritten1",
    "HUGGING_FACE_HUB_TOKEN": "hf_neverwritten2",
    "WANDB_API_KEY": "neverwritten3",
    "AWS_SECRET_ACCESS_KEY": "neverwritten4",
    "HTTPS_PROXY": "http://someone:neverwritten5@127.0.0.1:9",
    "MLFLOW_TRACKING_PASSWORD": "neverwritten6",
}


def holders(folder: Path) -> list[str]:
    """Files, and links by their target, that hold a secret's distinctive part."""
    return [
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and b"neverwritten" in path.read_bytes()
    ]


def said(done: Finished) -> str:
    return done.output + done.errors


@pytest.mark.parametrize("fails", [False, True], ids=["trained", "failed"])
def test_a_run_keeps_no_secret(fails: bool, folder: Path, tiny_checkpoint: Path) -> None:
    changes = {"optimizer__learning_rate": 1e30} if fails else {}
    training = {"max_steps": 2}
    write_plan(folder, model__source=str(tiny_checkpoint), training=training, **changes)
    done = launch(folder, **SECRETS)
    assert done.code == int(fails), done.errors
    assert (done.run / "environment.json").is_file()
    assert holders(folder) == []
    assert "neverwritten" not in said(done)


@pytest.mark.parametrize("engine", ["slurm", "kubeflow", "skypilot", "hosts"])
def test_a_job_keeps_no_secret(engine: str, tmp_path: Path, tiny_checkpoint: Path) -> None:
    write_samples(tmp_path)
    write_plan(tmp_path, model__source=str(tiny_checkpoint))
    done = launch(tmp_path, "--on", engine, "--dry-run", **SECRETS)
    assert "neverwritten" not in said(done)
    assert holders(tmp_path) == []


def test_a_field_and_a_file_control_no_terminal(folder: Path, tiny_checkpoint: Path) -> None:
    name = HOSTILE.replace("\udc80", "")
    write_records(folder / f"{name}.jsonl", [{name: "x"}] * 4)
    write_plan(folder, model__source=str(tiny_checkpoint), data__source=f"{name}.jsonl")
    done = launch(folder)
    assert done.code == 2
    assert SHOWN.removesuffix(r"\udc80") in done.errors
    assert not {"\x1b", "\x9b", "\u202e"} & set(said(done))
