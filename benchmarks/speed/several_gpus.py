"""Predicted against published steps of several GPUs: the rows of several_gpus.yaml."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from msgspec import convert

from benchmarks.errors import error_statistics, relative_error
from planner.base.strict_yaml import Spec, parse_yaml
from planner.base.text_files import read_text
from planner.decision.request import Request
from planner.decision.requested_workload import workload
from planner.hardware.cards import load_gpu, named_cluster
from planner.hardware.multi_node import over_nodes
from planner.models.model_presets import load_model
from planner.plan.vocabulary import ZERO_STAGE, Method, Offload, ZeroStage
from planner.search.candidate import Candidate
from planner.speed.step_time import StepTime
from planner.workload.layout import Layout

FILE = Path(__file__).parent / "several_gpus.yaml"
SHORT = 512
"""Tokens of a sample where a source does not state them; only offload is judged there."""
HEADER = (
    "| row | GPUs | layout | measured, s | predicted, s | off |",
    "|---|---|---|---:|---:|---:|",
)


class Nodes(Spec):
    """The machine of a row."""

    gpu: str
    gpus_per_node: int
    nodes: int = 1
    network: str | None = None


class Adapter(Spec):
    rank: int
    targets: tuple[str, ...]


class PublishedStep(Spec):
    """A published step time with the settings that it was measured with."""

    id: str
    source: str
    seen_in: str
    model: str
    machine: Nodes
    method: Method
    zero_stage: ZeroStage
    micro_batch_size: int
    global_batch_size: int
    step_s: float
    sequence_length: int | None = None
    recomputes: bool = False
    offload: Offload = "none"
    lora: Adapter | None = None
    longer_than: str | None = None
    """The row of the same run without its offload."""


class ToldStep(NamedTuple):
    """Seconds of a published step, or of what offload adds to it, measured and predicted."""

    row: PublishedStep
    measured_s: float
    predicted_s: float

    @property
    def error(self) -> float:
        """Relative error of the speed; a positive one is a prediction that is too fast."""
        return relative_error(predicted=self.measured_s, measured=self.predicted_s)


@cache
def published_steps() -> dict[str, PublishedStep]:
    """Return the rows by their id."""
    rows = convert(parse_yaml(read_text(FILE), FILE), list[PublishedStep])
    return {row.id: row for row in rows}


def told_steps() -> list[ToldStep]:
    """Return every row that can be predicted: its step, or what its offload adds to another's."""
    found, rows = [], published_steps()
    for row in rows.values():
        if row.longer_than is not None:
            without = rows[row.longer_than]
            more = step_of(row).total_s - step_of(without).total_s
            found.append(ToldStep(row, row.step_s - without.step_s, more))
        elif row.sequence_length is not None:
            found.append(ToldStep(row, row.step_s, step_of(row).total_s))
    return found


def step_of(row: PublishedStep) -> StepTime:
    """Return the predicted parts of a row's step, as a plan of its settings has them."""
    machine = named_cluster(load_gpu(row.machine.gpu), row.machine.gpus_per_node)
    cluster = over_nodes(machine, row.machine.nodes, row.machine.network)
    request = Request(
        model=load_model(row.model),
        cluster=cluster,
        method=row.method,
        sequence_length=row.sequence_length or SHORT,
        global_batch_size=row.global_batch_size,
        lora_rank=row.lora.rank if row.lora else None,
        lora_targets=row.lora.targets if row.lora else None,
        loss="standard",
    )
    strategies = {stage: strategy for strategy, stage in ZERO_STAGE.items()}
    samples = row.micro_batch_size * cluster.world_size
    layout = Layout(
        strategy=strategies[row.zero_stage],
        world_size=cluster.world_size,
        micro_batch_size=row.micro_batch_size,
        gradient_accumulation_steps=row.global_batch_size // samples,
        activation_checkpointing=row.recomputes,
        offload=row.offload,
    )
    candidate = Candidate(workload=workload(request, row.method), layout=layout, cluster=cluster)
    assert candidate.throughput is not None
    return candidate.throughput.step


def step_lines(told: Sequence[ToldStep]) -> list[str]:
    """Return the table of these rows, line by line, with the statistics of all."""
    found = error_statistics([each.error for each in told])
    last = f"| **all {found.count}** | | | | median {found.median:.1%} | {found.worst:+.1%} |"
    return [*HEADER, *map(_line, told), last]


def _line(told: ToldStep) -> str:
    row, machine = told.row, told.row.machine
    nodes = f"{machine.nodes} x " if machine.nodes > 1 else ""
    offload = "; what offload adds" if row.longer_than else ""
    layout = f"{row.model}, {row.method}, ZeRO-{row.zero_stage}{offload}"
    return (
        f"| {row.source}: {row.id} | {nodes}{machine.gpus_per_node} x {machine.gpu} | {layout} "
        f"| {told.measured_s:.2f} | {told.predicted_s:.2f} | {told.error:+.1%} |"
    )
