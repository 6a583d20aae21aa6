"""LitGPT's tables: parameters counted exactly, peaks met, and its own model traced."""

import csv
import re

import pytest
from msgspec import structs

from benchmarks.accuracy.__main__ import PUBLISHED
from benchmarks.accuracy.litgpt import requested_bytes, set_aside, sources, timeline
from benchmarks.accuracy.litgpt.predict import run_of
from benchmarks.accuracy.litgpt.shape import shapes
from benchmarks.accuracy.litgpt.training import MicroBatch, TrainingRun
from benchmarks.accuracy.litgpt.weights import Tuning
from benchmarks.accuracy.timeline import Timeline
from benchmarks.errors import error_statistics, relative_error
from benchmarks.rows import Row, read_rows

ROWS = [row for row in read_rows(PUBLISHED) if row.source in sources()]
PREDICTED = [row for row in ROWS if set_aside(row) is None]
LATER_IS_LARGER = [row for row in ROWS if "later micro-batch" in (set_aside(row) or "")]


def _trainable() -> dict[str, int]:
    """What the table itself says of each row."""
    with PUBLISHED.open(encoding="utf-8", newline="") as file:
        notes = {line["id"]: line["notes"] for line in csv.DictReader(file)}
    found = {name: re.search(r"trainable=([\d,]+);", text) for name, text in notes.items()}
    return {name: int(match[1].replace(",", "")) for name, match in found.items() if match}


TRAINABLE = _trainable()


@pytest.mark.parametrize("row", [r for r in ROWS if r.id in TRAINABLE], ids=lambda row: row.id)
def test_as_many_parameters_train_as_the_table_says(row: Row) -> None:
    run = run_of(row, MicroBatch(samples=1, length=2))
    run.micro_batch()
    assert sum(run.trainable) == TRAINABLE[row.id]


def test_peaks_are_those_of_the_tables() -> None:
    def found(row: Row) -> tuple[float, float]:
        line, measured = timeline(row), row.readings["allocated"]
        peaks = (requested_bytes(line), line.peaks(expandable_segments=False).allocated_bytes)
        first, second = (relative_error(predicted=peak, measured=measured) for peak in peaks)
        return first, second

    for errors in zip(*(found(row) for row in PREDICTED), strict=True):
        statistics = error_statistics(errors)
        assert statistics.median <= 0.01
        assert statistics.percentile_95 <= 0.03


@pytest.mark.parametrize("row", LATER_IS_LARGER, ids=lambda row: row.id)
def test_a_peak_of_a_later_micro_batch_lies_between_the_first_and_the_longest(row: Row) -> None:
    measured = row.readings["allocated"]
    first, later = (requested_bytes(timeline(row, steady=steady)) for steady in (False, True))
    assert first < measured < later


@pytest.mark.parametrize(
    ("name", "targets", "samples"),
    [
        ("phi-1_5", "q,v", 1),
        ("stablelm-base-alpha-3b", "q,v", 2),
        ("Llama-2-7b-hf", "q,v", 1),
        ("falcon-7b", "q,v", 1),
        ("tiny-llama-1.1b", "q,k,v,proj,mlp,head", 2),
    ],
)
def test_a_micro_batch_takes_what_litgpts_own_model_takes(
    name: str, targets: str, samples: int
) -> None:
    pytest.importorskip("litgpt", reason="litgpt 0.2.0 is not installed")
    from tests.benchmarks.litgpt_traced import traced_peak

    chosen = frozenset(targets.split(","))
    run = TrainingRun(
        structs.replace(shapes()[name], n_layer=2),
        Tuning(method="lora", rank=8, targets=chosen),
        MicroBatch(samples=samples, length=300),
        steady=False,
    )
    run.micro_batch()
    traced = traced_peak(name, chosen, layers=2, samples=samples, length=300)
    line = Timeline()
    line.log("micro-batch", run.tape.log)
    assert requested_bytes(line) == pytest.approx(traced, rel=0.002)
