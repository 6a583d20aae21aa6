"""The starts of a run's ranks, one after another: which layout, from where, and how it ended."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from launcher.run.run_directory import RunDirectory
from launcher.storage.json_files import write_json
from planner.plan.schema import Plan

RESTARTED = "the ranks were started again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    strategy: str
    micro_batch_size: int
    gradient_accumulation_steps: int
    activation_checkpointing: bool
    checkpoint_every: int
    from_step: int
    ended: str | None = None
    """Nothing while it runs."""


def attempt_of(plan: Plan, *, from_step: int) -> Attempt:
    return Attempt(
        strategy=plan.parallel.strategy,
        micro_batch_size=plan.batch.micro_batch_size,
        gradient_accumulation_steps=plan.batch.gradient_accumulation_steps,
        activation_checkpointing=plan.activation_checkpointing,
        checkpoint_every=plan.checkpoint_every,
        from_step=from_step,
    )


def begin_attempt(run: RunDirectory, attempt: Attempt) -> None:
    """By rank 0, once it knows where it goes on from. One that nobody has ended was broken off:
    torch elastic has started the ranks again."""
    earlier = [
        each if each.ended else replace(each, ended=RESTARTED) for each in _read(run.attempts)
    ]
    _write(run.attempts, [*earlier, attempt])


def end_attempt(run: RunDirectory, attempt: Attempt, ended: str) -> None:
    """``attempt`` stands for one whose ranks did not come so far as to say that they began."""
    attempts = _read(run.attempts)
    if not attempts or attempts[-1].ended is not None:
        attempts.append(attempt)
    _write(run.attempts, [*attempts[:-1], replace(attempts[-1], ended=ended)])


def reported_attempts(run: RunDirectory) -> list[dict[str, Any]]:
    """As the report of a run that has just finished tells of them."""
    attempts = _read(run.attempts)
    return [asdict(each) for each in (*attempts[:-1], *_finished(attempts[-1:]))]


def _finished(last: Sequence[Attempt]) -> list[Attempt]:
    return [replace(each, ended="finished") for each in last]


def _read(path: Path) -> list[Attempt]:
    if not path.is_file():
        return []
    return [Attempt(**each) for each in json.loads(path.read_text(encoding="utf-8"))]


def _write(path: Path, attempts: Sequence[Attempt]) -> None:
    write_json(path, [asdict(each) for each in attempts])
