"""Verdicts against published outcomes: whether a run completes on its card or runs out of memory.

A replay on a card of that size decides: the allocator returns cached blocks before it fails, so a
run may reserve more on a larger card than this one has and still complete here.
"""

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.accuracy.predict import card_of, on_card, plan_fits, set_aside
from benchmarks.accuracy.sources import sources
from benchmarks.rows import Row, parse_row
from planner.base.units import MIB

OUTCOMES = Path(__file__).parent.parent / "published" / "oom_boundary.csv"
FMS = "foundation-model-stack/fms-acceleration scripts/benchmarks/refs"
SOURCES = {
    "fitcheck-llm": "fitcheck",
    "modelscope/ms-swift": "swiftdec",
    f"{FMS}/a100_80gb.csv": "fms",
    f"{FMS}/a100_80gb_liger.csv": "fmsliger",
}
"""Name of the conventions that a run was made under, by the beginning of its outcome's source."""
EMPTY = ("params_b", "notes", "grad_accum", "unit")
UNSTATED = "a setting that decides the size is not stated"
NO_CARD = "the card, or its context, is not known"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    run: str
    card: str
    completed: bool
    predicted: bool | None
    """Whether the run is predicted to complete by the replay; None if it is set aside."""
    planned: bool | None
    """Whether ``plan`` would let it onto the card; None if no plan can express it."""
    reason: str | None
    device_error: float | None
    """Relative error of the process total, if the run completed and printed it."""


def verdicts(*, several: bool = True) -> Iterator[Verdict]:
    """Yield a verdict on each outcome; ``several``: on those of several cards, too, which take
    half a second each."""
    with OUTCOMES.open(encoding="utf-8", newline="") as file:
        for number, line in enumerate(csv.DictReader(file)):
            if several or line["n_gpus"] == "1":
                yield _verdict(line, number)


def _verdict(line: Mapping[str, str], number: int) -> Verdict:
    row = _row(line, number)
    reason = UNSTATED if row is None else set_aside(row)
    if row is not None and reason is None and card_of(row, sources()[row.source]) is None:
        reason = NO_CARD
    words = [line["model"], line["method"], line["micro_batch"], line["seq_len"]]
    if line["n_gpus"] != "1":
        words.append(f"x {line['n_gpus']}")
    run = " ".join(words)
    found = on_card(row) if row is not None and reason is None else None
    device_error = None
    if found is not None and line["process_mib"] and not found.runs_out:
        measured = float(line["process_mib"]) * MIB
        device_error = (found.device_used_bytes - measured) / measured
    return Verdict(
        run=run,
        card=line["gpu"],
        completed=line["outcome"] == "completed",
        predicted=None if found is None else not found.runs_out,
        planned=None if row is None or found is None else plan_fits(row),
        reason=reason,
        device_error=device_error,
    )


def _row(line: Mapping[str, str], number: int) -> Row | None:
    """Return the outcome as a row of its source, or None if batch or length is not stated."""
    if not line["micro_batch"] or not line["seq_len"]:
        return None
    known = (name for start, name in SOURCES.items() if line["source"].startswith(start))
    name = next(known, "unknown")
    losses = sources()[name].losses if name in sources() else ("",)
    return parse_row(
        dict.fromkeys(EMPTY, "")
        | dict(line)
        | {
            "id": f"{name}-outcome{number}",
            "loss_kernel": line["loss_kernel"] or losses[0],
            "gpu_type": line["gpu"],
            "offload": "none",
            "peak_mem_gb": "0",
            "peak_gib_per_gpu": "0",
            "mem_kind": "reserved",
        }
    )
