"""The attempts of a run, in ``attempts.json``: layout, first step and end of every start."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from launcher.run.run_directory import RunDirectory
from launcher.storage.json_files import write_json
from planner.plan.schema import Plan

RESTARTED = "the ranks were restarted"
"""End of an attempt whose ranks torch elastic started again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One start of a run's ranks."""

    strategy: str
    micro_batch_size: int
    gradient_accumulation_steps: int
    activation_checkpointing: bool
    checkpoint_every: int
    from_step: int
    """Step of the checkpoint that it resumed from; 0 without one."""
    ended: str | None = None
    """How it ended, in words; None while it runs."""


def attempt_of(plan: Plan, *, from_step: int) -> Attempt:
    """Return an attempt with the plan's layout that has not ended yet."""
    return Attempt(
        strategy=plan.parallel.strategy,
        micro_batch_size=plan.batch.micro_batch_size,
        gradient_accumulation_steps=plan.batch.gradient_accumulation_steps,
        activation_checkpointing=plan.activation_checkpointing,
        checkpoint_every=plan.checkpoint_every,
        from_step=from_step,
    )


def begin_attempt(run: RunDirectory, attempt: Attempt) -> None:
    """Append an attempt; rank 0 does so once it knows which step it resumes from.

    An earlier attempt without an end was broken off: torch elastic restarted its ranks.
    """
    earlier = [
        before if before.ended else replace(before, ended=RESTARTED)
        for before in _read(run.attempts)
    ]
    _write(run.attempts, [*earlier, attempt])


def end_attempt(run: RunDirectory, attempt: Attempt, ended: str) -> None:
    """Write how the last attempt ended.

    ``attempt`` is appended first if its ranks ended before they could record that they began.
    """
    attempts = _read(run.attempts)
    if not attempts or attempts[-1].ended is not None:
        attempts.append(attempt)
    _write(run.attempts, [*attempts[:-1], replace(attempts[-1], ended=ended)])


def reported_attempts(run: RunDirectory) -> list[dict[str, Any]]:
    """Return all attempts as plain data, the last one as finished; rank 0 writes its report so."""
    attempts = _read(run.attempts)
    last = [replace(attempt, ended="finished") for attempt in attempts[-1:]]
    return [asdict(attempt) for attempt in (*attempts[:-1], *last)]


def _read(path: Path) -> list[Attempt]:
    if not path.is_file():
        return []
    return [Attempt(**content) for content in json.loads(path.read_text(encoding="utf-8"))]


def _write(path: Path, attempts: Sequence[Attempt]) -> None:
    write_json(path, [asdict(attempt) for attempt in attempts])
