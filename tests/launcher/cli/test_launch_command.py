"""A person's mistake is one line on stderr and exit code 2, and nothing has been written."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from planner.plan.plan_file import render
from tests.launcher.launching import asked, environment, launch, write_plan, write_records
from tests.launcher.planned import planned
from tests.launcher.plans import full, parallel, plan_text

TWO_RANKS: dict[str, Any] = {
    "parallel": parallel("ddp"),
    "batch__gradient_accumulation_steps": 1,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A plan and its data."""
    write_plan(tmp_path)
    write_records(tmp_path / "data.jsonl", [asked("Who?", "Ada")])
    return tmp_path


def mistake(folder: Path, *options: str, **variables: str) -> str:
    """The one line that a wrong launch prints."""
    done = launch(folder, *options, **variables)
    assert done.code == 2, done.errors
    assert done.output == ""
    lines = done.errors.splitlines()
    assert len(lines) == 1, done.errors
    assert lines[0].startswith("error: ")
    return lines[0].removeprefix("error: ")


def test_a_dry_run_writes_nothing_and_needs_no_data(tmp_path: Path) -> None:
    write_plan(tmp_path, data__source=None)
    done = launch(tmp_path, "--dry-run", "--output", "elsewhere")
    assert done.code == 0, done.errors
    assert done.output.startswith("run directory: elsewhere\n")
    assert "-m launcher.training.rank elsewhere" in done.output
    assert [path.name for path in tmp_path.iterdir()] == ["plan.yaml"]


@pytest.mark.parametrize("options", [(), ("--on", "slurm")])
def test_a_dry_run_looks_for_the_data_that_are_named(
    options: tuple[str, ...], tmp_path: Path
) -> None:
    write_plan(tmp_path, data__source=None)
    assert "no-file.jsonl" in mistake(tmp_path, "--dry-run", "--data", "no-file.jsonl", *options)


def test_a_dry_run_imports_no_training_stack(folder: Path) -> None:
    code = (
        "import sys; sys.argv = ['launch', 'plan.yaml', '--dry-run']\n"
        "import launcher.cli.launch_command\n"
        "assert launcher.cli.launch_command.main() == 0\n"
        "print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(done.stdout.split())
    assert loaded.isdisjoint({"torch", "transformers", "datasets", "trl", "huggingface_hub"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "gone.jsonl"], "data file gone.jsonl does not exist. Name one with --data"),
        (["--set", "training.max_step=3"], "--set training.max_step=3: unknown key"),
        (["--set", "training.seed=4294967296"], "--set training.seed=4294967296: training.seed"),
        (["--set", "parallel.strategy=zero9"], "--set parallel.strategy=zero9: parallel.strategy"),
        (["--output", "plan.yaml"], "plan.yaml is a file. Choose a folder with --output DIR."),
        (["--output", "."], ". is not empty and not a run directory"),
        (["--output", "plan.yaml/run"], "cannot write plan.yaml/run: Not a directory."),
        (["--out", "x"], "no such option: --out. Did you mean '--output'?"),
        (["--data"], "--data: expected one argument"),
        (["one", "two"], "unexpected argument: one"),
    ],
)
def test_wrong_options(folder: Path, options: list[str], message: str) -> None:
    assert mistake(folder, *options).startswith(message)
    assert not (folder / "run").exists()


def test_a_plan_without_data(tmp_path: Path) -> None:
    write_plan(tmp_path, data__source=None)
    assert mistake(tmp_path).startswith("the plan names no data. Say which with --data FILE")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: [", "plan.yaml:2: not YAML"),
        ("", "plan.yaml:1: is empty where keys are expected"),
        (plan_text(schema_version=2), "plan.yaml:1: schema_version: it should be 1"),
        (plan_text().replace("method:", "methd:"), "plan.yaml:14: unknown key 'methd'. Did you"),
        (
            plan_text(batch__global_batch_size=5),
            "plan.yaml: global_batch_size (5) must be micro_batch_size",
        ),
    ],
)
def test_a_wrong_plan(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "plan.yaml").write_text(text, encoding="utf-8")
    assert mistake(tmp_path).startswith(message)


def test_no_plan(tmp_path: Path) -> None:
    assert mistake(tmp_path) == "plan.yaml: cannot be read (No such file or directory)"


@pytest.mark.parametrize("options", [[], ["--dry-run"], ["--rehearse"]])
def test_an_optimizer_that_the_device_cannot_run(tmp_path: Path, options: list[str]) -> None:
    write_plan(tmp_path, optimizer__name="adamw_8bit")
    done = launch(tmp_path, *options)
    assert (done.code, done.output) == (2, "")
    assert done.errors.startswith("error: lora with adamw_8bit under single on CPU is refused:")


def test_several_nodes(tmp_path: Path) -> None:
    nodes = {**parallel("ddp", 4), "num_nodes": 2, "gpus_per_node": 2}
    write_plan(tmp_path, parallel=nodes, batch__global_batch_size=16)
    assert mistake(tmp_path).startswith("the plan is for 2 nodes")


def test_too_little_disk(tmp_path: Path) -> None:
    write_plan(tmp_path, prediction__disk_bytes=2**60)
    write_records(tmp_path / "data.jsonl", [asked("Who?", "Ada")])
    assert "GiB of free disk and the run needs about" in mistake(tmp_path)


def test_a_finished_run_is_kept(folder: Path) -> None:
    (folder / "run").mkdir()
    report = folder / "run" / "report.json"
    report.write_text("{}", encoding="utf-8")
    assert mistake(folder).startswith("run already holds a finished run.")
    assert report.read_text(encoding="utf-8") == "{}"


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ('{"messages": [{"role": "user"}]}', "data.jsonl:2: messages[0].content: this field"),
        (
            '{"question": "a"}',
            "data.jsonl:2: messages: this field is missing; the record has question",
        ),
        ("{", "data.jsonl:2: is not JSON"),
    ],
)
def test_a_bad_record(folder: Path, record: str, message: str) -> None:
    with (folder / "data.jsonl").open("a", encoding="utf-8") as file:
        file.write(record)
    assert mistake(folder).startswith(message)


def test_an_empty_data_file(folder: Path) -> None:
    (folder / "data.jsonl").write_text("", encoding="utf-8")
    assert mistake(folder).startswith("data.jsonl: holds no records.")


def test_answers_beyond_the_sequence_length(folder: Path, tiny_checkpoint: Path) -> None:
    write_plan(folder, model__source=str(tiny_checkpoint), batch__sequence_length=8)
    assert mistake(folder).startswith("data.jsonl: no record has an answer within 8 tokens.")


def test_a_missing_model_folder(folder: Path) -> None:
    write_plan(folder, model__source="./gone")
    assert mistake(folder) == "model folder gone does not exist."


def test_a_folder_that_is_no_checkpoint(folder: Path) -> None:
    (folder / "empty").mkdir()
    write_plan(folder, model__source="empty")
    assert mistake(folder) == "empty has no config.json, so it is not a checkpoint."


def test_an_unreachable_hub_fails_at_once(folder: Path) -> None:
    write_plan(folder, model__source="somebody/some-model")
    began = time.monotonic()
    message = mistake(folder, HF_ENDPOINT="http://127.0.0.1:9", HF_HOME=str(folder / "hub"))
    assert message.startswith("model somebody/some-model: the hub cannot be reached")
    assert "--set model.source=DIR" in message
    assert time.monotonic() - began < 15


def test_an_offline_hub_is_not_asked(folder: Path) -> None:
    write_plan(folder, model__source="somebody/some-model")
    message = mistake(folder, HF_HUB_OFFLINE="1", HF_HOME=str(folder / "hub"))
    assert message.startswith("model somebody/some-model: HF_HUB_OFFLINE is set.")


def test_cards_that_are_not_here(folder: Path) -> None:
    write_plan(folder, hardware__device="cuda", hardware__device_name="NVIDIA GeForce RTX 4090")
    message = mistake(folder, CUDA_VISIBLE_DEVICES="")
    assert message.startswith("the plan is for 1 x NVIDIA GeForce RTX 4090 and this machine")


def test_a_run_that_is_interrupted_twice(folder: Path, tiny_checkpoint: Path) -> None:
    """By Ctrl-C, which saves; gone on with, and then one of its two ranks is killed."""
    write_plan(
        folder,
        **full(
            model__source=str(tiny_checkpoint),
            training={"max_steps": 1_000_000, "logging_steps": 20},
            **TWO_RANKS,
        ),
    )
    metrics = folder / "run" / "metrics.jsonl"
    with started(folder) as process:
        wait_for(lambda: metrics.exists() and metrics.stat().st_size > 0)
        assert len(processes_with("launcher.training.rank", folder)) >= 2
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT
    (checkpoint,) = (folder / "run" / "checkpoints").iterdir()
    step = int(checkpoint.name.removeprefix("checkpoint-"))
    last = f"error: training was stopped by SIGINT; step {step} is saved: --resume continues"
    assert errors.splitlines()[-1] == last
    wait_for(lambda: not processes_with("launcher.training.rank", folder), limit_s=5)
    assert json.loads(metrics.read_text(encoding="utf-8").splitlines()[0])["step"] == 1

    logged = metrics.stat().st_size
    with started(folder, "--resume") as process:
        wait_for(lambda: metrics.stat().st_size > logged)
        os.kill(max(processes_with("launcher.training.rank", folder)), signal.SIGKILL)
        killed = time.monotonic()
        _, errors = process.communicate(timeout=60)
    assert time.monotonic() - killed < 10
    assert process.returncode == 1
    assert f"resuming from step {step}" in errors
    assert re.search(
        r"error: training failed: rank 1 \(.*\) was killed by signal 9: the sys", errors
    )
    assert "The end of run/logs/rank-1.log:" in errors
    wait_for(lambda: not processes_with("launcher.training.rank", folder), limit_s=5)
    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
    assert steps == sorted(set(steps))


def started(folder: Path, *options: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "launcher", "plan.yaml", *options],
        cwd=folder,
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(condition: Any, *, limit_s: float = 120) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.1)


def processes_with(word: str, folder: Path) -> list[int]:
    """Processes whose command has a word and that work in a folder."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            command = (place / "cmdline").read_bytes().decode(errors="replace")
            where = (place / "cwd").readlink()
        except OSError:
            continue  # it has ended meanwhile, or is somebody else's
        if word in command and where == folder:
            found.append(int(place.name))
    return found


def test_an_edited_plan_is_predicted_anew(tmp_path: Path) -> None:
    """The prediction in the file is that of the plan before the edit."""
    plan = planned()
    barely = structs.replace(plan.hardware, budget_bytes=plan.prediction.high_bytes)
    text = render(structs.replace(plan, hardware=barely), command="plan", file=None)
    assert "\n  sequence_length: 512\n" in text
    edited = text.replace("\n  sequence_length: 512\n", "\n  sequence_length: 1024\n")
    (tmp_path / "plan.yaml").write_text(text, encoding="utf-8")
    assert launch(tmp_path, "--dry-run").code == 0
    (tmp_path / "plan.yaml").write_text(edited, encoding="utf-8")
    assert mistake(tmp_path, "--dry-run").startswith("the edited plan: this needs up to ")
