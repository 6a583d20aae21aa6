"""The command as a user runs it: exit codes, one-line errors, files, and what it imports."""

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec import to_builtins

from planner.base.errors import InvalidRequestError
from planner.base.strict_yaml import read_spec
from planner.cli.model_option import find_model
from planner.plan.schema import Plan
from tests.planner.builders import SMALL_LLAMA

TIERS = {
    "24G": "qlora",
    "16G": "qlora",
    "12G": "qlora",
    "2x24G": "lora",
    "48G": "lora",
    "8x24G": "full",
    "4x40G": "full",
    "2x80G": "full",
}


def plan(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "planner", *arguments],
        cwd=cwd,
        env={**os.environ, "COLUMNS": "80", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def error_of(*arguments: str, cwd: Path) -> str:
    """The one line that a mistake prints; nothing else may be said."""
    result = plan(*arguments, cwd=cwd)
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    return lines[0]


@pytest.mark.parametrize("network", ["infiniband-400g", None])
def test_a_plan_for_several_nodes_names_what_joins_them(
    network: str | None, tmp_path: Path
) -> None:
    named = [] if network is None else ["--network", network]
    result = plan(
        *("--model", "llama-3.1-8b", "--gpus", "8xh100", "--nodes", "2", *named), cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    made = read_spec(Plan, tmp_path / "plan.yaml")
    assert (made.hardware.network, made.parallel.num_nodes) == (network, 2)


@pytest.mark.parametrize("spec", TIERS)
def test_json_for_the_customers_machines(spec: str, tmp_path: Path) -> None:
    result = plan("--model", "chatglm3-6b-base", "--gpus", spec, "--json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    per_gpu = document["prediction"]["per_gpu"]
    assert document["plan"]["method"] == TIERS[spec]
    assert document["model"]["num_params"] == 6_243_584_000
    assert per_gpu["low_bytes"] <= per_gpu["device_used_bytes"] <= per_gpu["high_bytes"]
    assert per_gpu["high_bytes"] <= per_gpu["budget_bytes"] <= per_gpu["capacity_bytes"]
    peak = per_gpu["phases"][per_gpu["peak_phase"]]
    assert sum(peak.values()) == per_gpu["peak_allocated_bytes"]
    assert not list(tmp_path.iterdir()), "--json alone writes no file"


def test_the_plan_written_is_the_plan_printed(tmp_path: Path) -> None:
    arguments = ("--model", "chatglm3-6b-base", "--gpus", "24G")
    assert plan(*arguments, cwd=tmp_path).returncode == 0
    written = read_spec(Plan, tmp_path / "plan.yaml")
    document = json.loads(plan(*arguments, "--json", cwd=tmp_path).stdout)
    assert json.loads(json.dumps(to_builtins(written))) == document["plan"]


def test_an_edited_plan_is_never_lost(tmp_path: Path) -> None:
    arguments = ("--model", "chatglm3-6b-base", "--gpus", "24G")
    file = tmp_path / "plan.yaml"
    assert plan(*arguments, cwd=tmp_path).returncode == 0
    assert plan(*arguments, cwd=tmp_path).returncode == 0, "an untouched plan is replaced"
    edited = file.read_text().replace("seed: 42", "seed: 43")
    file.write_text(edited)
    assert "--force" in error_of(*arguments, cwd=tmp_path)
    assert file.read_text() == edited
    assert plan(*arguments, "--force", cwd=tmp_path).returncode == 0
    assert "seed: 42" in file.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "chatglm3-6b-bsae"], "Did you mean 'chatglm3-6b-base'?"),
        (["--model", "llama-2-7b", "--gpus", "rtx-4099"], "Did you mean 'rtx-4090',"),
        (["--model", "llama-2-7b", "--gpus", "2x"], "2x"),
        (["--gpus", "24G"], "--model"),
        (["--model", "llama-2-7b", "--gpus", "4x24G", "--global-batch-size", "6"], "4 or 8"),
        (["--model", "llama-2-7b", "--gpus", "24G", "--memory-limit", "lots"], "24G or 22.5GiB"),
        (["--model", "llama-2-7b", "--gpus", "24G", "--data", "no.jsonl"], "no.jsonl"),
        (["--model", "llama-2-70b", "--gpus", "24G", "--method", "full"], "GiB short"),
        (["--model", "llama-2-7b", "--sequence-length", "many"], "--sequence-length"),
        (["--model", "llama-2-7b", "--zero-stages", "2"], "--zero-stage"),
        (["--model", "llama-2-7b", "--lora-rank", "0"], "0 is less than 1"),
        (["--model", "llama-2-7b", "--loss", "fast"], "fused"),
        (["--model", "llama-2-7b", "--gpus", "24G", "-o", "no/such/plan.yaml"], "cannot write"),
        (["--model", "llama-2-7b", "--gpus", "24G", "--recipe", "quora"], "qlora"),
        (["--model", "llama-2-7b", "--gpus", "24G", "-o", "."], "is a directory"),
        (["--model", "llama-2-7b", "--gpus", "24.5G"], "whole GiB"),
        (["--model", "llama-2-7b", "--gpus", "2xcpu"], "takes no count"),
        (["--model", "llama-2-7b", "--optimizer", "adam-8bit"], "Did you mean 'adamw_8bit'?"),
        (["--model", "llama-2-7b", "--gpus", "cpu", "--optimizer", "lion_8bit"], "on the CPU"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], message: str, tmp_path: Path) -> None:
    assert message in error_of(*arguments, cwd=tmp_path)


def test_a_disk_that_takes_no_more_keeps_the_plan_that_was_there(tmp_path: Path) -> None:
    arguments = ("--model", "chatglm3-6b-base", "--gpus", "24G")
    assert plan(*arguments, cwd=tmp_path).returncode == 0
    before = (tmp_path / "plan.yaml").read_text()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        message = error_of(*arguments, "--method", "lora", cwd=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "cannot write plan.yaml: File too large. Choose another place with -o." in message
    assert (tmp_path / "plan.yaml").read_text() == before
    assert [path.name for path in tmp_path.iterdir()] == ["plan.yaml"]


def test_a_directory_with_a_configuration_is_a_model(tmp_path: Path) -> None:
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(SMALL_LLAMA))
    result = plan("--model", "model", "--gpus", "24G", "--json", cwd=tmp_path)
    assert json.loads(result.stdout)["model"]["num_params"] == 134_515_008


def test_the_plan_goes_to_stdout_on_request(tmp_path: Path) -> None:
    result = plan("--model", "chatglm3-6b-base", "--gpus", "24G", "-o", "-", cwd=tmp_path)
    assert "schema_version: 1" in result.stdout
    assert not list(tmp_path.iterdir())


def test_json_wins_over_the_plan_on_stdout(tmp_path: Path) -> None:
    arguments = ("--model", "chatglm3-6b-base", "--gpus", "24G", "--json", "-o", "-")
    assert json.loads(plan(*arguments, cwd=tmp_path).stdout)["schema_version"] == 1


LISTED: dict[str, tuple[str, dict[str, object]]] = {
    "models": ("chatglm3-6b-base", {"num_params": 6_243_584_000}),
    "gpus": ("rtx-4090", {"device_name": "NVIDIA GeForce RTX 4090", "also": ["4090"]}),
    "recipes": ("chatglm3_6b_base_qlora_alpaca_zh_e3", {"method": "qlora"}),
}
"""Of each kind a name, and some of what is said of it; the recipe is one of a family."""


@pytest.mark.parametrize("kind", LISTED)
def test_presets_are_listed(kind: str, tmp_path: Path) -> None:
    """One document has what the table has, and nothing is said beside it."""
    name, said = LISTED[kind]
    listed = plan("--list", kind, "--json", cwd=tmp_path)
    assert (listed.returncode, listed.stderr) == (0, "")
    records = {record["name"]: record for record in json.loads(listed.stdout)}
    assert said.items() <= records[name].items()
    table = plan("--list", kind, cwd=tmp_path, COLUMNS="140")
    assert table.returncode == 0
    lines = {line.split()[0] for line in table.stdout.splitlines() if line.strip()}
    assert records.keys() <= lines


def test_a_pipe_gets_plain_text(tmp_path: Path) -> None:
    result = plan("--model", "chatglm3-6b-base", "--gpus", "24G", cwd=tmp_path)
    assert "\x1b" not in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_planning_imports_no_training_stack(tmp_path: Path) -> None:
    probe = (
        "import sys\n"
        "from planner.cli.plan_command import main\n"
        "sys.argv = ['plan', '--model', 'chatglm3-6b-base', '--gpus', 'auto', '-o', '-']\n"
        "assert main() == 0\n"
        "print(*sys.modules, file=sys.stderr)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", probe], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    loaded = set(result.stderr.split())
    assert loaded.isdisjoint({"torch", "transformers", "numpy", "launcher", "peft", "deepspeed"})
    assert "planner.allocator.replay" not in loaded, "it replays traces, which a plan has none of"


def test_who_reads_no_further_ends_it_without_a_word(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "planner", "--model", "qwen2.5-7b", "--gpus", "24G", "-o", "-"]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as filtered:
        assert filtered.stdout is not None
        assert filtered.stderr is not None
        filtered.stdout.close()
        assert filtered.stderr.read() == b""
    assert filtered.returncode == -signal.SIGPIPE


@pytest.mark.parametrize("path", ["./none", "/none/here", "a/b/c"])
def test_a_model_folder_that_is_not_there(path: str) -> None:
    with pytest.raises(InvalidRequestError, match=f"model folder {path} does not exist"):
        find_model(path)
