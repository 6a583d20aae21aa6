"""Measuring on the CPU with real children: results, resume, limits, failures, the tables."""

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.accuracy import own as accuracy_own
from benchmarks.measure.__main__ import HERE, MATRICES
from benchmarks.measure.child import one_line, status_of
from benchmarks.measure.matrix import Row, read_matrix
from benchmarks.measure.planning import NotPlannableError, one_device, plan_row
from benchmarks.measure.results import own_runs
from benchmarks.measure.runner import (
    Settings,
    is_done,
    read_result,
    run_row,
    run_rows,
    why_it_ended,
    write_result,
)
from benchmarks.measure.table import error_of
from launcher.rehearsal.meter import CudaCounters, Meter
from planner.base.errors import InvalidFileError
from planner.base.units import GIB, MIB
from planner.hardware.detect import parse_gpus
from tests.nvml.stand_in import build, environment

ROOT = Path(__file__).parents[2]
MATRIX = """
groups:
  - about: one that runs, and one that no plan has words for
    model: [smollm2-135m]
    num_layers: 1
    method: [lora]
    sequence_length: [64]
    loss: [standard]
    offload: [none, optimizer]
"""
ONE_H100 = """
driver 580.159.04
cuda 13000
gpu
name NVIDIA H100 80GB HBM3
uuid GPU-00000000-0000-0000-0000-000000000000
memory_mib 81559 550 81009
capability 9.0
"""
CPU = parse_gpus("cpu")
H100 = parse_gpus("h100-sxm-80gb")
ROW = Row(
    model="smollm2-135m",
    num_layers=1,
    method="full",
    micro_batch_size=1,
    gradient_accumulation_steps=1,
    sequence_length=64,
    activation_checkpointing=True,
    loss="standard",
    attention="sdpa",
    optimizer="adamw_torch_fused",
    strategy="single",
    offload="none",
)
READINGS = {"allocated": 3 * GIB, "reserved": 4 * GIB, "device_used": 5 * GIB}


def settings(results: Path, **changes: Any) -> Settings:
    base = Settings(cluster=CPU, results=results, steps=2, seconds_per_run=300)
    return replace(base, **changes)


def measure(
    results: Path, *options: str, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.measure", "--results", str(results), *options]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, check=False, env=environment
    )


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Where the results of a whole run lie, and what it printed."""
    directory = tmp_path_factory.mktemp("measured")
    matrix = directory / "matrix.yaml"
    matrix.write_text(MATRIX, encoding="utf-8")
    done = measure(
        directory / "results", "--device", "cpu", "--matrix", str(matrix), "--steps", "2"
    )
    assert done.returncode == 0, done.stderr
    return directory / "results", done.stdout


def by_status(results: Path) -> dict[str, Any]:
    documents = [json.loads(path.read_text(encoding="utf-8")) for path in results.iterdir()]
    return {document["measured"]["status"]: document for document in documents}


def test_a_run_leaves_what_was_run_predicted_and_measured(measured: tuple[Path, str]) -> None:
    document = by_status(measured[0])["ok"]
    assert document["run"]["plan"]["model"]["config"]["num_hidden_layers"] == 1
    found = document["measured"]
    assert list(found["phases"]) == ["load", "forward", "backward", "optimizer_step", "save"]
    grown = found["peak_resident_bytes"] - found["resident_before_bytes"]
    assert document["predicted"]["allocated"] < grown < document["predicted"]["allocated"] + GIB
    assert found["steps"] == 2
    assert found["step_time_s"]["least"] <= found["step_time_s"]["most"]
    assert document["environment"]["packages"]["torch"] is not None


def test_nothing_names_the_machine(measured: tuple[Path, str]) -> None:
    text = json.dumps(by_status(measured[0])["ok"]["environment"])
    for name in (*subprocess.check_output(["uname", "-nrv"], text=True).split(), str(ROOT)):
        assert f'"{name}"' not in text


def test_a_row_without_words_is_a_result_that_is_asked_for_again(
    measured: tuple[Path, str],
) -> None:
    document = by_status(measured[0])["not planned"]
    assert document["measured"]["reason"] == "offload optimizer needs strategy zero2 or zero3"
    assert not is_done(Row(**document["run"]["row"]), settings(measured[0]))


def test_the_tables_show_every_row(measured: tuple[Path, str]) -> None:
    results, output = measured
    name = "smollm2-135m-1-layers--lora--1x64--checkpointing--standard"
    assert f"ok: {name}" in output
    assert "2 of 2 rows have a result, 1 of them a peak: median" in output
    again = measure(
        *(results, "--device", "cpu", "--matrix", str(results.parent / "matrix.yaml")),
        *("--only", "*standard", "--minutes", "0"),
    )
    assert f"ok: {name}" not in again.stdout
    assert "1 of 1 rows have a result, 1 of them a peak" in again.stdout
    listed = measure(
        results, "--device", "cpu", "--matrix", str(results.parent / "matrix.yaml"), "--list"
    )
    assert f"{name}: " not in listed.stdout
    assert "--optimizer: offload optimizer needs strategy zero2 or zero3" in listed.stdout


def test_what_was_run_is_not_run_again(measured: tuple[Path, str]) -> None:
    row = Row(**by_status(measured[0])["ok"]["run"]["row"])
    assert list(run_rows([row], settings(measured[0]), until_s=time.monotonic() + 999)) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a card the run would not fail")
def test_a_failure_on_a_card_is_a_result_that_is_kept(tmp_path: Path) -> None:
    """NVML's stand-in shows a card, and this machine's torch cannot use it."""
    machine = tmp_path / "one-h100.txt"
    machine.write_text(ONE_H100, encoding="utf-8")
    there = environment(build(tmp_path), machine)
    row = "qwen2.5-0.5b--lora--1x1024--checkpointing--fused"
    done = measure(tmp_path / "results", "--only", row, environment=there)
    assert done.returncode == 0, done.stderr
    [path] = (tmp_path / "results").iterdir()
    assert path.name == f"{row}--h100-sxm-80gbx1.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    assert document["measured"]["status"] == "failed"
    assert document["measured"]["failed_in"] == "load"
    assert document["environment"]["device"]["driver"] == "580.159.04"
    assert set(document["predicted"]) == {"allocated", "reserved", "device_used"}
    [reason] = [line for line in done.stdout.splitlines() if line.startswith(f"{row}: failed: ")]
    assert reason.endswith(document["measured"]["reason"])
    assert list(own_runs(tmp_path / "results")) == []


def test_too_little_memory_is_a_result(tmp_path: Path) -> None:
    document = run_row(ROW, settings(tmp_path, memory_limit_bytes=300 * MIB), left_s=300)
    assert document is not None
    assert document["predicted"]["allocated"] > 300 * MIB
    assert document["measured"]["status"] == "oom", document["measured"]
    assert document["measured"]["failed_in"] in (None, "load", "forward", "backward")
    assert len(document["measured"]["reason"].splitlines()) == 1
    assert error_of(document) is None


def test_deepspeeds_own_engine_takes_the_steps_of_a_row_of_zero(tmp_path: Path) -> None:
    row = replace(ROW, method="lora", strategy="zero2")
    document = run_row(row, settings(tmp_path, steps=1), left_s=300)
    assert document is not None
    assert document["measured"]["status"] == "ok", document["measured"]["reason"]
    assert document["run"]["plan"]["parallel"]["strategy"] == "zero2"
    assert "optimizer_step" in document["measured"]["phases"]


def test_a_run_that_takes_too_long_is_a_result(tmp_path: Path) -> None:
    document = run_row(ROW, settings(tmp_path, seconds_per_run=0.5), left_s=300)
    assert document is not None
    assert document["measured"] == {"status": "out of time", "reason": "stopped after 0 s"}
    assert document["environment"]["python"]


def test_a_run_that_the_time_ended_is_none(tmp_path: Path) -> None:
    found = run_rows([ROW], settings(tmp_path), until_s=time.monotonic() + 0.5)
    assert list(found) == []
    assert run_row(ROW, settings(tmp_path), left_s=0.5) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), "oom"),
        (RuntimeError("CUDA error: out of memory"), "oom"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you"), "oom"),
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), "oom"),
        (MemoryError(), "oom"),
        (ValueError("a shape\nis wrong"), "failed"),
    ],
)
def test_what_an_error_is(error: Exception, status: str) -> None:
    assert status_of(error) == status
    assert "\n" not in one_line(error)


def test_how_a_process_ended_that_left_nothing() -> None:
    assert why_it_ended(-9, "loading") == "ended by SIGKILL"
    assert why_it_ended(1, "Traceback:\n  x\nImportError: no trl\n\n") == "ImportError: no trl"
    assert why_it_ended(3, "") == "ended with exit code 3 and no word"
    elastic = "[rank1]: AssertionError: 4 != 2\nx.errors.ChildFailedError: \n=====\n"
    assert why_it_ended(1, elastic) == "[rank1]: AssertionError: 4 != 2"


def test_names_tell_rows_apart() -> None:
    rows = read_matrix(MATRICES["cuda"])
    assert len({row.name for row in rows}) == len(rows) > 80
    assert ROW.name == "smollm2-135m-1-layers--full--1x64--checkpointing--standard"
    changed = replace(ROW, strategy="zero3", offload="optimizer", gradient_accumulation_steps=2)
    assert changed.name.endswith("--1x2x64--checkpointing--standard--zero3--optimizer")


def test_the_matrix_asks_all_that_it_should() -> None:
    rows = read_matrix(HERE / "matrix.yaml")
    assert {row.method for row in rows} == {"qlora", "lora", "full"}
    assert {row.strategy for row in rows} == {"single", "ddp", "zero2", "zero3"}
    for axis in ("loss", "attention", "activation_checkpointing"):
        assert len({getattr(row, axis) for row in rows}) == 2
    planned = 0
    for row in rows:
        try:
            plan_row(row, H100)
        except NotPlannableError:
            assert (row.offload, row.optimizer) != ("none", "adamw_torch_fused")
        else:
            planned += 1
    assert planned > 80


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"optimizer": "magic"}, "no optimizer is named 'magic'"),
        ({"attention": "magic"}, "attention: "),
        ({"model": "magic"}, "no model is named 'magic'"),
    ],
)
def test_what_a_plan_knows_no_word_for(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(NotPlannableError, match=reason):
        plan_row(replace(ROW, **changes), H100)


def test_a_mistake_in_a_matrix_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "matrix.yaml"
    path.write_text("groups:\n  - about: x\n    modle: [a]\n", encoding="utf-8")
    with pytest.raises(InvalidFileError, match=r"matrix\.yaml:3: unknown key"):
        read_matrix(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--device", "cuda"], "--device cuda needs a GPU: "),
        (["--device", "cpu", "--only", "nothing"], "--only 'nothing' matches no row"),
        (["--device", "cpu", "--memory-limit", "9"], "--memory-limit '9' is not a size"),
        (["--device", "cuda", "--list", "--memory-limit", "9G"], "--memory-limit needs"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, options: list[str], message: str) -> None:
    done = measure(tmp_path, *options)
    assert (done.returncode, done.stdout) == (2, "")
    [line] = done.stderr.splitlines()
    assert line.startswith(f"error: {message}")


def test_rows_are_listed_for_a_card_that_is_not_here() -> None:
    assert one_device("cuda", {}, listing=True).accelerator.label == "h100-sxm-80gb"


def own_result(directory: Path, row: Row, **measured: Any) -> None:
    """A result as a card would have left it."""
    here = settings(directory, cluster=H100)
    document = {
        "run": {"row": {name: getattr(row, name) for name in row.__slots__}},
        "predicted": {},
        "measured": {
            "status": "ok",
            **{f"peak_{name}_bytes": READINGS[name] for name in ("allocated", "reserved")},
            "device_used_bytes": READINGS["device_used"],
            "step_time_s": {"median": 0.5, "least": 0.4, "most": 0.6},
            **measured,
        },
        "environment": {"device": {"name": H100.accelerator.device_name}},
    }
    write_result(directory / f"{row.name}.json", document)
    assert read_result(row, here) is None


def test_own_results_are_held_against_the_planner_of_today(tmp_path: Path) -> None:
    own_result(tmp_path, ROW)
    own_result(tmp_path, replace(ROW, strategy="ddp"))
    own_result(tmp_path, replace(ROW, method="lora"), status="oom")
    ddp, single = own_runs(tmp_path)
    assert (ddp.card, single.row) == ("h100-sxm-80gb", ROW)
    assert single.measured == READINGS
    assert single.predicted["allocated"] == plan_row(ROW, H100).predicted_bytes["allocated"]
    assert "reserved, replayed" in single.predicted
    assert "reserved, replayed" not in ddp.predicted


def test_the_accuracy_table_has_a_place_for_own_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_result(tmp_path, ROW)
    monkeypatch.setattr(accuracy_own, "RESULTS", tmp_path)
    [error] = accuracy_own.own_errors()["allocated", "h100-sxm-80gb", "full"]
    predicted = plan_row(ROW, H100).predicted_bytes["allocated"]
    assert error == pytest.approx(predicted / (3 * GIB) - 1)


class Card:
    """The calls that a meter makes of torch.cuda, and what a card would have answered."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.allocated = self.peak = 0

    def allocate(self, num_bytes: int) -> None:
        self.allocated += num_bytes
        self.peak = max(self.peak, self.allocated)

    def synchronize(self, _device: Any) -> None:
        self.calls.append("synchronize")

    def reset_peak_memory_stats(self, _device: Any) -> None:
        self.calls.append("reset")
        self.peak = self.allocated

    def memory_stats(self, _device: Any) -> dict[str, int]:
        self.calls.append("read")
        kinds = {"requested": self.peak - 1, "allocated": self.peak, "reserved": 2 * self.peak}
        return {f"{kind}_bytes.all.peak": size for kind, size in kinds.items()}

    def mem_get_info(self, _device: Any) -> tuple[int, int]:
        return 100 - 3 * self.peak, 100


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Card:
    card = Card()
    for name in ("synchronize", "reset_peak_memory_stats", "memory_stats", "mem_get_info"):
        monkeypatch.setattr(torch.cuda, name, getattr(card, name))
    return card


def test_a_phase_has_what_it_began_with_and_its_own_largest_moment(card: Card) -> None:
    meter = Meter(CudaCounters(torch.device("cuda", 0)))
    with meter.phase("load"):
        card.allocate(8)
    with meter.phase(None):
        card.allocate(20)
        card.allocate(-20)
    for extra in (3, 5, 4):
        with meter.phase("forward"):
            card.allocate(extra)
            card.allocate(-extra)
        with meter.phase("backward"):
            pass
    assert meter.phases == {
        "load": {"requested": 7, "allocated": 8, "reserved": 16, "device_used": 24},
        "forward": {"requested": 12, "allocated": 13, "reserved": 26, "device_used": 39},
        "backward": {"requested": 7, "allocated": 8, "reserved": 16, "device_used": 24},
    }
    assert meter.largest("reserved") == 26
    assert len(meter.step_times_s) == 3
    assert card.calls[:4] == ["synchronize", "reset", "synchronize", "read"]
