"""Rehearsals of small models: against the prediction, and against steps that were computed."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.functional import quantize_4bit
from msgspec import structs
from rich.console import Console

from launcher.rehearsal.operator_rules import FAKE_RULES
from launcher.rehearsal.rehearse import compare, quiet_libraries, traced
from launcher.rehearsal.step import rehearse_step
from launcher.rehearsal.table import Comparison, Side, largest_phase, print_comparison
from launcher.rehearsal.tracer import Tracer
from launcher.run.read_plan import plan_text
from planner.base.units import GIB
from planner.plan.optimizer_presets import optimizers
from planner.recipes.load_recipe import load_recipe
from planner.search.repredict import workload_of
from tests.launcher.launching import launch, write_plan
from tests.launcher.planned import SHAPE, planned
from tests.launcher.plans import full, plan
from tests.oracle.test_optimizers import counted_on_the_host
from tests.torchao import marked

TOLERANCE = (-0.03, 0.05)
"""Of the prediction over the trace, cuBLAS' workspaces aside, which are not traced."""
SAME = 0.0005
"""Relative: scalars, and what is of a few tokens."""
PHASES = ["load", "forward", "backward", "optimizer_step", "save"]
DORA = {"adapter__dora": True, "adapter__dropout": 0.1}
NF4: dict[str, Any] = {
    "method": "qlora",
    "quantization": {"quant_type": "nf4", "double_quant": True},
}
INT8: dict[str, Any] = {"method": "qlora", "quantization": {"quant_type": "int8"}}
SOME_LAYERS = {"activation_checkpointing": True, "checkpoint_every": 2}
PLANS: list[dict[str, Any]] = [
    {},
    {"activation_checkpointing": True},
    {"loss": "standard"},
    {"batch__gradient_accumulation_steps": 1, "batch__global_batch_size": 2},
    full(),
    full(activation_checkpointing=True),
    full(optimizer__name="adafactor"),
    {"optimizer__name": "adamw_torch"},
    {"optimizer__name": "sgd"},
    NF4,
    DORA,
    DORA | NF4,
    INT8,
    INT8 | {"activation_checkpointing": True},
    SOME_LAYERS,
    full(**SOME_LAYERS),
    {"batch__micro_batch_size": 1, "batch__global_batch_size": 2, "attention": "eager"},
]


@pytest.mark.parametrize("name", ["chatglm3-6b-base", "llama-3.1-8b"])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("method", ["qlora", "lora", "full"])
def test_prediction_beside_trace(method: Any, checkpointing: bool, name: str) -> None:
    made = planned(
        name=name, method=method, activation_checkpointing=checkpointing, micro_batch_size=1
    )
    with quiet_libraries():
        found = compare(made)
    assert list(found.observed.phases) == PHASES
    predicted = found.predicted.peak_allocated_bytes
    assert predicted == made.prediction.peak_allocated_bytes
    low, high = TOLERANCE
    ratio = (predicted - made.prediction.cublas_bytes) / found.observed.peak_allocated_bytes
    assert low <= ratio - 1 <= high
    for part in ("weights", "adapters", "optimizer_states"):
        ours, theirs = (
            side.phases["save"].get(part, 0) for side in (found.predicted, found.observed)
        )
        assert ours == pytest.approx(theirs, rel=0.02)


@pytest.mark.parametrize(
    "pinned",
    [
        pytest.param({"strategy": "tensor", "method": "full", "loss": "standard"}, id="cut, full"),
        pytest.param(
            {"strategy": "tensor", "method": "lora"}, id="cut, lora", marks=pytest.mark.long
        ),
        pytest.param(
            {"strategy": "zero2", "method": "full", "sequence_parallel_size": 2},
            id="shared, full",
            marks=pytest.mark.long,
        ),
        pytest.param(
            {"strategy": "zero3", "method": "lora", "sequence_parallel_size": 2},
            id="shared, lora",
        ),
    ],
)
def test_ranks_that_share_samples_are_traced_among_fake_ones(pinned: dict[str, Any]) -> None:
    """With the embeddings' whole gradient of an earlier micro-batch, what is gathered on the way,
    and tokens that are exchanged for heads."""
    shape = {**SHAPE, "num_layers": 2}
    made = planned(2, name="llama-3.1-8b", shape=shape, micro_batch_size=2, **pinned)
    assert made.batch.gradient_accumulation_steps > 1
    with quiet_libraries():
        found = compare(made)
    assert not torch.distributed.is_initialized()
    assert ("optimizer_step" in found.observed.phases) == (pinned["strategy"] == "tensor")
    for phase, parts in found.observed.phases.items():
        predicted = found.predicted.phases[phase]
        not_traced = made.prediction.cublas_bytes if "workspace" in predicted else 0
        assert sum(predicted.values()) - not_traced == pytest.approx(sum(parts.values()), rel=SAME)


@pytest.mark.long
@pytest.mark.parametrize("name", marked(optimizers()))
def test_the_update_of_every_optimizer(name: str) -> None:
    """What it holds and makes, to the byte, but for a table that is on the host."""
    pinned: dict[str, Any] = {"method": "lora"}
    if optimizers()[name].kept_in == "projected":
        pinned = {"method": "full"}
    made = planned(micro_batch_size=1, optimizer=name, **pinned)
    with quiet_libraries():
        found = compare(made)
    parts = ("gradients", "optimizer_states", "workspace")
    ours, theirs = (
        sum(side.phases["optimizer_step"].get(part, 0) for part in parts)
        for side in (found.predicted, found.observed)
    )
    on_host = counted_on_the_host(name, workload_of(made), "cuda")
    assert ours - made.prediction.cublas_bytes == theirs - on_host


@pytest.mark.parametrize("name", ["bloom-560m", "gpt2", "phi-1.5"])
def test_the_gpt_line_in_4_bit(name: str) -> None:
    """GPT-2 stores its matrices the other way round, and each line has names of its own."""
    small = {"num_layers": 2, "vocab_size": 8192}
    made = planned(name=name, shape=small, method="qlora", micro_batch_size=1)
    with quiet_libraries():
        found = compare(made)
    low, high = TOLERANCE
    traced_bytes = found.observed.peak_allocated_bytes
    assert (
        low
        <= (found.predicted.peak_allocated_bytes - made.prediction.cublas_bytes) / traced_bytes - 1
        <= high
    )
    for part in ("weights", "adapters"):
        ours, theirs = (side.phases["save"][part] for side in (found.predicted, found.observed))
        assert ours == pytest.approx(theirs, rel=0.01)


@pytest.mark.long
@pytest.mark.parametrize("method", ["qlora", "lora"])
def test_vera_beside_trace(method: Any) -> None:
    recipe = structs.replace(load_recipe(method), adapter=load_recipe("vera").adapter)
    made = planned(recipe=recipe, activation_checkpointing=False, micro_batch_size=1)
    with quiet_libraries():
        found = compare(made)
    predicted = found.predicted.peak_allocated_bytes - made.prediction.cublas_bytes
    assert predicted == pytest.approx(found.observed.peak_allocated_bytes, rel=0.001)


@pytest.mark.long
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("method", ["qlora", "lora"])
def test_dora_beside_trace(method: Any, checkpointing: bool) -> None:
    recipe = load_recipe(method)
    assert recipe.adapter is not None
    adapter = structs.replace(recipe.adapter, dora=True)
    made = planned(
        recipe=structs.replace(recipe, adapter=adapter),
        activation_checkpointing=checkpointing,
        micro_batch_size=1,
    )
    with quiet_libraries():
        found = compare(made)
    predicted = found.predicted.peak_allocated_bytes - made.prediction.cublas_bytes
    low, high = TOLERANCE
    assert low <= predicted / found.observed.peak_allocated_bytes - 1 <= high


@pytest.mark.long
@pytest.mark.parametrize("checkpoint_every", [1, 3])
@pytest.mark.parametrize("recipe", ["qlora-int8", "lora", "full"])
def test_partial_checkpointing_and_int8_beside_trace(recipe: str, checkpoint_every: int) -> None:
    made = planned(
        recipe=load_recipe(recipe), checkpoint_every=checkpoint_every, micro_batch_size=2
    )
    with quiet_libraries():
        found = compare(made)
    predicted = found.predicted.peak_allocated_bytes - made.prediction.cublas_bytes
    assert predicted == pytest.approx(found.observed.peak_allocated_bytes, rel=0.001)


@pytest.mark.parametrize("name", ["chatglm3-6b-base", "gemma-2-2b"])
def test_packed_beside_trace(name: str) -> None:
    """Even one row has a mask then; windows have one of their own."""
    shape = {"num_layers": 2, "vocab_size": 8192}
    made = planned(name=name, shape=shape, method="lora", packing=True, micro_batch_size=1)
    with quiet_libraries():
        found = compare(made)
    predicted = found.predicted.peak_allocated_bytes - made.prediction.cublas_bytes
    assert predicted == pytest.approx(found.observed.peak_allocated_bytes, rel=0.001)


def test_an_int8_base_keeps_its_inputs_beside_the_trace() -> None:
    made = planned(
        recipe=load_recipe("qlora-int8"), activation_checkpointing=False, micro_batch_size=1
    )
    with quiet_libraries():
        found = compare(made)
    predicted = found.predicted.peak_allocated_bytes - made.prediction.cublas_bytes
    assert predicted == pytest.approx(found.observed.peak_allocated_bytes, rel=0.001)


@pytest.mark.long
@pytest.mark.parametrize("changes", PLANS, ids=[", ".join(each) or "lora" for each in PLANS])
def test_a_fake_step_allocates_what_a_computed_one_does(
    tiny_checkpoint: Path, changes: dict[str, Any]
) -> None:
    """For a plan on the CPU the trace must be that of the computed step, storage by storage."""
    made = plan(model__source=str(tiny_checkpoint), **changes)
    quantize_4bit(torch.zeros(64), compress_statistics=True)  # makes the table that all share
    computed = Tracer(FAKE_RULES)
    with quiet_libraries(), computed:
        rehearse_step(made, torch.device("cpu"), computed)
    with quiet_libraries():
        assert traced(made).phases == computed.phases


def test_ranks_are_traced_one_at_a_time_without_what_they_share() -> None:
    made = planned(8, method="full", zero_stage=3)
    with quiet_libraries():
        found = compare(made)
    assert list(found.observed.phases) == ["forward", "backward"]
    parts = {part for phase in found.observed.phases.values() for part in phase}
    assert parts <= {"activations", "loss", "workspace"}


@pytest.mark.parametrize("name", ["llama-3.1-8b", "qwen3-30b-a3b"])
def test_a_micro_batch_under_zero_3_is_the_trace_to_the_byte(name: str) -> None:
    """Though weights that are gathered beside it are largest at another moment."""
    made = planned(4, name=name, method="lora", zero_stage=3, checkpoint_every=1)
    with quiet_libraries():
        found = compare(made)
    for phase, parts in found.observed.phases.items():
        ours = found.predicted.phases[phase]["activations"]
        assert ours == pytest.approx(parts["activations"], abs=4096)


def test_under_deepspeed_adapters_are_16_bit() -> None:
    made = planned(2, method="lora", zero_stage=2)
    with quiet_libraries():
        found = compare(made)
    adapters = {side.phases["load"]["adapters"] for side in (found.predicted, found.observed)}
    assert adapters == {2 * made.model.trainable_params}


def test_the_document_and_nothing_else(tmp_path: Path) -> None:
    made = planned(method="lora", micro_batch_size=1)
    (tmp_path / "plan.yaml").write_text(plan_text(made), encoding="utf-8")
    done = launch(tmp_path, "--rehearse", "--json", CUDA_VISIBLE_DEVICES="")
    assert done.code == 0, done.errors
    document = json.loads(done.output)
    assert list(document) == ["predicted", "traced"]
    for side in document.values():
        assert list(side) == ["peak_allocated_bytes", "phases"]
        peak = max(sum(parts.values()) for parts in side["phases"].values())
        assert side["peak_allocated_bytes"] == peak
    assert [path.name for path in tmp_path.iterdir()] == ["plan.yaml"]


def test_the_table(tmp_path: Path) -> None:
    made = planned(2, method="lora", micro_batch_size=1, zero_stage=0)
    (tmp_path / "plan.yaml").write_text(plan_text(made), encoding="utf-8")
    done = launch(tmp_path, "--rehearse", CUDA_VISIBLE_DEVICES="")
    assert done.code == 0, done.errors
    assert "backward" in done.output
    assert "peak allocated: predicted " in done.output
    assert "in neither sum: communication." in " ".join(done.output.split())
    assert "\x1b" not in done.output


def test_what_a_device_counts_stands_beside_the_sum_of_the_parts() -> None:
    made = planned(method="lora", micro_batch_size=1)
    predicted = largest_phase(made.prediction.phases)
    readings = {"allocated": 3 * GIB, "reserved": 4 * GIB}
    found = Side(peak_allocated_bytes=3 * GIB, phases={"forward": readings})
    console = Console(file=io.StringIO(), width=100)
    print_comparison(console, made, Comparison("measured", predicted, found))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    ours = sum(made.prediction.phases["forward"].values()) / GIB
    [allocated] = [line.split() for line in lines if "allocated  " in line]
    assert allocated == ["forward", "allocated", f"{ours:.2f}", "3.00", f"{ours - 3:.2f}"]
    assert ["reserved", "4.00"] in [line.split() for line in lines]


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"model__source": "./gone"}, ["--rehearse"], "model folder gone does not exist."),
        (
            {"model__source": "a/b"},
            ["--rehearse"],
            "a/b is not a folder here and the plan holds no",
        ),
        ({}, ["--json"], "--json needs --rehearse"),
        ({"model__model_type": "internlm2"}, ["--rehearse"], "model_type internlm2: transformers"),
        (
            {"model__config": {"model_type": "helium", "hidden_size": "wide"}},
            ["--rehearse"],
            "model.config: transformers refuses it",
        ),
    ],
)
def test_a_mistake_is_one_line(
    tmp_path: Path, changes: dict[str, Any], options: list[str], message: str
) -> None:
    write_plan(tmp_path, **changes)
    done = launch(tmp_path, *options)
    assert (done.code, done.output) == (2, "")
    [line] = done.errors.splitlines()
    assert line.startswith(f"error: {message}")
