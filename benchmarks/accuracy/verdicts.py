"""Verdicts against published outcomes: does a run complete on its card, or run out of memory?

A replay on a card of that size decides: the allocator gives cached blocks back before it
fails, so a run may reserve more elsewhere than this card has and still complete.
"""

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.accuracy.predict import on_card, set_aside
from benchmarks.rows import Row, parse_row
from planner.base.units import MIB

OUTCOMES = Path(__file__).parent.parent / "published" / "oom_boundary.csv"
SOURCES = {"fitcheck-llm": "fitcheck", "modelscope/ms-swift": "swiftdec"}
"""Beginnings of the outcome's own source to the conventions that its run was made under."""
EMPTY = ("params_b", "loss_kernel", "notes", "grad_accum", "unit")
UNSTATED = "a setting that decides the size is not stated"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    run: str
    card: str
    completed: bool
    predicted: bool | None
    """Nothing where the run is set aside."""
    reason: str | None
    device_error: float | None
    """Of the process total, where the run completed and it was printed."""


def verdicts() -> Iterator[Verdict]:
    with OUTCOMES.open(encoding="utf-8", newline="") as file:
        for number, line in enumerate(csv.DictReader(file)):
            yield _verdict(line, number)


def _verdict(line: Mapping[str, str], number: int) -> Verdict:
    row = _row(line, number)
    reason = UNSTATED if row is None else set_aside(row)
    run = " ".join((line["model"], line["method"], line["micro_batch"], line["seq_len"]))
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
        reason=reason,
        device_error=device_error,
    )


def _row(line: Mapping[str, str], number: int) -> Row | None:
    """The outcome as a row of its source, or nothing where batch or length is not stated."""
    if not line["micro_batch"] or not line["seq_len"]:
        return None
    known = (name for start, name in SOURCES.items() if line["source"].startswith(start))
    return parse_row(
        dict.fromkeys(EMPTY, "")
        | dict(line)
        | {
            "id": f"{next(known, 'unknown')}-outcome{number}",
            "gpu_type": line["gpu"],
            "offload": "none",
            "peak_mem_gb": "0",
            "peak_gib_per_gpu": "0",
            "mem_kind": "reserved",
        }
    )
