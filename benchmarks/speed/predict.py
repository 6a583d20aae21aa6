"""Predicted seconds of a step of a published row under the conventions of its source."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from msgspec import convert, field

from benchmarks.accuracy import predict as accuracy
from benchmarks.accuracy.express import training_of
from benchmarks.accuracy.sources import sources
from benchmarks.rows import Row
from planner.base.strict_yaml import Spec, parse_yaml
from planner.base.text_files import read_text
from planner.hardware.cards import named_cluster
from planner.speed.card_rates import Rates, rates, speed_data
from planner.speed.pass_time import counted_once, of_model, timed
from planner.speed.step_time import launch_s, update_bytes

FILE = Path(__file__).parent / "sources.yaml"
EVERY = "every row"
Reads = Literal["seconds of a step", "tokens per second"]


class SpeedSource(Spec):
    reads: Reads | None = None
    set_aside: dict[str, str] = field(default_factory=dict)
    """Why rows are not predicted, by the source's word for a quantization, or for every row."""


@cache
def speed_sources() -> dict[str, SpeedSource]:
    content: dict[str, object] = parse_yaml(read_text(FILE), FILE)
    return {name: convert(each, SpeedSource) for name, each in content.items()}


def set_aside(row: Row) -> str | None:
    """Return why a row with a throughput is not predicted, or None."""
    source = speed_sources().get(row.source)
    if source is None:
        return "conventions of the source are not declared yet"
    own = source.set_aside.get(EVERY) or source.set_aside.get(row.quantization)
    if own is not None:
        return own
    if row.id in speed_data().host_s_per_kernel.rows:
        return "the time that a host takes to launch a kernel is from this row"
    return accuracy.set_aside(row)


def measured_s(row: Row) -> float:
    """Return the measured seconds of one optimizer step."""
    reads, throughput = speed_sources()[row.source].reads, row.throughput
    assert throughput is not None
    return tokens(row) / throughput if reads == "tokens per second" else throughput


def tokens(row: Row) -> int:
    """Return the number of tokens of one optimizer step."""
    return row.micro_batch_size * row.sequence_length * row.gradient_accumulation_steps


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """Seconds of one optimizer step by part."""

    products_s: float
    elementwise_s: float
    dequantize_s: float
    launch_s: float
    update_s: float

    @property
    def total_s(self) -> float:
        moved = self.elementwise_s + self.dequantize_s + self.update_s
        return self.products_s + moved + self.launch_s


def predicted(row: Row) -> Prediction:
    """Return the time of the row's training loop on a tape that counts kernels, at the rates of its
    card."""
    source = sources()[row.source]
    training, speed = training_of(row, source), _rates(row)
    counted = counted_once(training.workload, training.numerics, training.batch, training.decoder)
    kernels = of_model(counted, training.workload.model, int(training.checkpointing))
    passed = timed(kernels, row.micro_batch_size, speed)
    times = row.gradient_accumulation_steps
    update = update_bytes(training.workload, training.numerics)
    return Prediction(
        products_s=times * passed.products_s,
        elementwise_s=times * passed.elementwise_s,
        dequantize_s=times * passed.dequantize_s,
        launch_s=times * launch_s(passed, speed),
        update_s=update / speed.bandwidth_bytes_per_s,
    )


def _rates(row: Row) -> Rates:
    card = accuracy.card_of(row, sources()[row.source])
    assert card is not None
    found = rates(named_cluster(card, 1))
    assert found is not None
    return found


def is_single(row: Row) -> bool:
    return row.throughput is not None and row.ranks == 1
