"""What ``launch --record`` leaves is an own run of benchmarks/accuracy."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

pytest.importorskip("torch")

from benchmarks.accuracy.own import own_errors
from benchmarks.measure.matrix import Row
from benchmarks.measure.planning import plan_row
from benchmarks.measure.results import own_runs
from launcher.lifecycle.measured_run import write_record
from launcher.run.read_plan import plan_text
from launcher.run.run_directory import RunDirectory
from launcher.storage.json_files import write_json
from planner.base.units import GIB
from planner.hardware.detect import parse_gpus
from planner.plan.data_section import DataSource
from planner.plan.schema import Plan

ROW = Row(
    model="smollm2-135m",
    num_layers=None,
    method="lora",
    micro_batch_size=2,
    gradient_accumulation_steps=1,
    sequence_length=512,
    activation_checkpointing=False,
    loss="fused",
    attention="sdpa",
    optimizer="adamw_torch_fused",
    strategy="single",
    offload="none",
)
RANK = {
    "rank": 0,
    "peak_allocated_bytes": 3 * GIB,
    "peak_reserved_bytes": 4 * GIB,
    "device_used_bytes": 5 * GIB,
    "peak_resident_bytes": 6 * GIB,
    "resident_before_model_bytes": GIB,
    "longest_batch_tokens": 384,
}
REPORT = {
    "measured": {
        "peak_allocated_bytes": 3 * GIB,
        "peak_reserved_bytes": 4 * GIB,
        "peak_resident_bytes": 6 * GIB,
        "tokens_per_second": 900.0,
        "ranks": [RANK, {**RANK, "device_used_bytes": 4 * GIB, "longest_batch_tokens": 300}],
    },
    "training": {"num_steps": 3},
}
ENVIRONMENT: dict[str, Any] = {
    "python": "3.12.1",
    "packages": {"torch": "2.13.0"},
    "hardware": {"cores": 8},
    "variables": {"OMP_NUM_THREADS": "1", "NCCL_SOCKET_IFNAME": "private0"},
    "argv": ["/home/somebody/launch"],
}


def finished(directory: Path, plan: Plan) -> RunDirectory:
    run = RunDirectory(directory)
    run.path.mkdir()
    run.plan.write_text(plan_text(plan), encoding="utf-8")
    write_json(run.report, REPORT)
    write_json(run.environment, ENVIRONMENT)
    rows = [{"step": step, "step_time_s": time} for step, time in enumerate((9.0, 2.0, 1.0), 1)]
    run.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return run


def test_a_recorded_run_is_predicted_at_the_length_that_it_had(tmp_path: Path) -> None:
    plan = plan_row(ROW, parse_gpus("rtx-4090")).plan
    path = write_record(finished(tmp_path / "run", plan))
    assert path.name.startswith("smollm2-135m--lora--2x384--rtx-4090x1--20")
    [own] = own_runs(path.parent)
    assert own.card == "rtx-4090"
    assert own.measured == {"allocated": 3 * GIB, "reserved": 4 * GIB, "device_used": 5 * GIB}
    shorter = plan_row(replace(ROW, sequence_length=384), parse_gpus("rtx-4090"))
    assert own.predicted["allocated"] == shorter.predicted_bytes["allocated"]
    predicted = own.predicted["allocated"]
    assert own_errors([path.parent])["allocated", "rtx-4090", "lora"] == [
        pytest.approx(predicted / (3 * GIB) - 1)
    ]
    document = json.loads(path.read_text(encoding="utf-8"))
    assert document["measured"]["step_time_s"] == {"median": 1.5, "least": 1.0, "most": 2.0}


@pytest.mark.parametrize(
    ("layout", "cards", "nodes"),
    [
        ({"strategy": "ddp", "world_size": 2}, "2xrtx-4090", 1),
        ({"strategy": "tensor", "world_size": 2, "model": "qwen3-0.6b"}, "2xrtx-4090", 1),
        ({"strategy": "fsdp", "world_size": 4, "num_nodes": 2, "copies": 2}, "2xrtx-4090", 2),
        (
            {
                "strategy": "zero3",
                "world_size": 4,
                "sequence_parallel_size": 2,
                "model": "qwen3-0.6b",
            },
            "4xrtx-4090",
            1,
        ),
        ({"packing": True}, "rtx-4090", 1),
    ],
    ids=["ddp", "layers that are cut", "copies", "shared sequences", "packed"],
)
def test_a_run_is_predicted_in_the_layout_that_it_had(
    tmp_path: Path, layout: dict[str, Any], cards: str, nodes: int
) -> None:
    row = replace(ROW, **layout)
    plan = plan_row(row, structs.replace(parse_gpus(cards), num_nodes=nodes)).plan
    [own] = own_runs(write_record(finished(tmp_path / "run", plan)).parent)
    assert own.row == replace(row, sequence_length=384)


def test_a_layout_that_a_record_does_not_say_is_left_out(tmp_path: Path) -> None:
    row = replace(ROW, strategy="fsdp", world_size=4, num_nodes=2, copies=2)
    plan = plan_row(row, structs.replace(parse_gpus("2xrtx-4090"), num_nodes=2)).plan
    path = write_record(finished(tmp_path / "run", plan))
    document = json.loads(path.read_text(encoding="utf-8"))
    del document["run"]["row"]["copies"]
    write_json(path, document)
    assert list(own_runs(path.parent)) == []


def test_a_run_that_no_row_can_say_is_left_out(tmp_path: Path) -> None:
    plan = plan_row(ROW, parse_gpus("rtx-4090")).plan
    assert plan.adapter is not None
    other_rank = structs.replace(plan, adapter=structs.replace(plan.adapter, rank=7))
    in_tiles = structs.replace(plan, tiled_mlp=True)
    for name, other in {"rank": other_rank, "tiles": in_tiles}.items():
        path = write_record(finished(tmp_path / name, other))
        assert list(own_runs(path.parent)) == []


@pytest.mark.parametrize("place", ["folder", "/home/somebody/gone", "~/somebody", "a/somebody/m"])
@pytest.mark.parametrize(
    "data",
    [
        {"source": "/home/somebody/secret.jsonl"},
        {"source": None, "sources": (DataSource(source="secret.jsonl", system="somebody"),)},
    ],
)
def test_nothing_names_the_machine(tmp_path: Path, place: str, data: dict[str, Any]) -> None:
    """A folder may be gone by then."""
    source = str(tmp_path) if place == "folder" else f"{place}/model"
    plan = plan_row(ROW, parse_gpus("rtx-4090")).plan
    here = structs.replace(
        plan,
        model=structs.replace(plan.model, source=source),
        data=structs.replace(plan.data, **data),
    )
    text = write_record(finished(tmp_path / "run", here)).read_text(encoding="utf-8")
    assert not [word for word in ("somebody", "secret", str(tmp_path), "private0") if word in text]
