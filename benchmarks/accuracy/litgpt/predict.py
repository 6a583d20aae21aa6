"""Peaks of a row of LitGPT's tables, from LitGPT's model code on the tape."""

from collections.abc import Hashable
from typing import get_args

from benchmarks.accuracy.litgpt.conventions import Conventions, Launch, sources
from benchmarks.accuracy.litgpt.fsdp import ShardedRun
from benchmarks.accuracy.litgpt.shape import shapes
from benchmarks.accuracy.litgpt.training import MicroBatch, TrainingRun
from benchmarks.accuracy.litgpt.weights import Method, Tuning
from benchmarks.accuracy.timeline import Timeline
from benchmarks.rows import Row
from planner.allocator.replay import Allocate
from planner.base.units import ALLOCATOR_BLOCK_BYTES, round_up
from planner.memory.workspaces import cublas_workspaces

DOUBLE_QUANT = {"none": None, "nf4": False, "nf4-double": True}
PRECISION = "bf16"
"""All that its launches have: weights, gradients and states in 16 bit, without autocast."""
TARGETS = {"o": "proj", "gate": "mlp", "up": "mlp", "down": "mlp", "lm_head": "head"}
"""LitGPT's words by the table's, where they differ."""


def set_aside(row: Row) -> str | None:
    """Return why a row of LitGPT is not predicted, or None."""
    source = sources()[row.source]
    if row.model not in source.models:
        return "model not declared"
    if row.method not in get_args(Method):
        return f"method {row.method}"
    return source.aside.get(row.id) or _unknown_word(row, source)


def _unknown_word(row: Row, source: Conventions) -> str | None:
    """Return the first setting that is not the one of its table's launches."""
    settings = (
        (f"precision {row.precision}", row.precision == PRECISION),
        (f"parallel {row.parallel}", row.parallel == "single" or row.id in source.launches),
        (f"optimizer {row.optimizer}", row.optimizer in source.optimizers),
        (f"offload {row.offload}", row.offload == "none"),
        (f"loss {row.loss}", row.loss == source.losses.get(row.method, source.losses["other"])),
        (f"quantization {row.quantization}", row.quantization in DOUBLE_QUANT),
    )
    return next((word for word, known in settings if not known), None)


def timeline(row: Row, *, steady: bool | None = None) -> Timeline:
    """Return the run that the row describes, at its largest micro-batches.

    ``steady`` is the source's if None; see :class:`TrainingRun`.
    """
    if steady is None:
        steady = sources()[row.source].longest_repeats
    batch = MicroBatch(samples=row.micro_batch_size, length=row.sequence_length)
    run = run_of(row, batch, steady=steady)
    run.micro_batch()
    if steady:
        run.micro_batch()
        run.step()
    line = Timeline()
    for number, size in enumerate(run.resident + cublas_workspaces(None)):
        line.take(("resident", number), size)
    line.log("training", run.tape.log)
    return line


def requested_bytes(line: Timeline) -> int:
    """Return the most bytes requested at one time, each rounded up, without the rest of a block
    that was not split."""
    sizes: dict[Hashable, int] = {}
    level = most = 0
    for event in line.events:
        if isinstance(event, Allocate):
            sizes[event.key] = round_up(event.num_bytes, ALLOCATOR_BLOCK_BYTES)
            level += sizes[event.key]
            most = max(most, level)
        else:
            level -= sizes.pop(event.key)
    return most


def run_of(row: Row, batch: MicroBatch, *, steady: bool = False) -> TrainingRun:
    """Return the row's model and method on as many devices as its launch had."""
    source = sources()[row.source]
    launch = source.launches.get(row.id, Launch())
    shape, tuning = shapes()[source.models[row.model]], tuning_of(row)
    if launch.devices == 1:
        return TrainingRun(shape, tuning, batch, steady=steady)
    return ShardedRun(
        shape,
        tuning,
        batch,
        steady=steady,
        ranks=launch.devices,
        accumulates=launch.accumulates,
    )


def tuning_of(row: Row) -> Tuning:
    source = sources()[row.source]
    words = row.lora_targets.split(",") if row.lora_targets else []
    method = next(method for method in get_args(Method) if method == row.method)
    return Tuning(
        method=method,
        double_quant=DOUBLE_QUANT[row.quantization],
        rank=row.lora_rank or 0,
        targets=frozenset(TARGETS.get(word, word) for word in words),
        attention=source.attention_of.get(row.model, source.attention),
        norm_scaled_in_fp32=source.norm_scaled_in_fp32,
    )
