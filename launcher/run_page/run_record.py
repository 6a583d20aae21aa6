"""What a run has written so far, with what of it is missing or damaged."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from msgspec import Struct, ValidationError, convert, field

from launcher.run.attempts import Attempt
from launcher.run.read_plan import read_plan
from launcher.run.run_directory import RunDirectory, is_locked
from launcher.storage.json_files import read_json
from planner.base.errors import InvalidFileError, InvalidRequestError, reason_of
from planner.base.phrases import Phrase
from planner.plan.schema import Plan

T = TypeVar("T")


class Row(Struct, frozen=True):
    """One logged step of ``metrics.jsonl``."""

    step: int
    loss: float | None = None
    learning_rate: float | None = None
    grad_norm: float | None = None
    tokens_per_second: float | None = None
    step_time_s: float | None = None
    data_wait_s: float | None = None
    peak_used_bytes: float | None = None


class Evaluation(Struct, frozen=True):
    """One evaluation of ``evaluation.jsonl``."""

    step: int
    eval_loss: float


class Measured(Struct, frozen=True):
    """What ``report.json`` has measured."""

    peak_allocated_bytes: int | None = None
    peak_reserved_bytes: int | None = None
    peak_resident_bytes: int | None = None
    step_time_s: float | None = None
    tokens_per_second: float | None = None
    run_time_s: float | None = None
    ranks: tuple[dict[str, Any], ...] = ()

    @property
    def device_used_bytes(self) -> int | None:
        """Bytes in use on the fullest device at the end; None where no rank has read them."""
        used = [rank.get("device_used_bytes") for rank in self.ranks]
        return max((size for size in used if isinstance(size, int)), default=None)


class Trained(Struct, frozen=True):
    """What ``report.json`` says of the training."""

    num_steps: int
    first_loss: float
    last_loss: float


class Report(Struct, frozen=True):
    """The part of ``report.json`` that a page shows."""

    measured: Measured
    training: Trained
    result: str


class Environment(Struct, frozen=True):
    """The part of ``environment.json`` that a page shows."""

    python: str = ""
    platform: str = ""
    packages: dict[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """A run as its directory has it."""

    path: Path
    plan: Plan | None
    report: Report | None
    environment: Environment | None
    attempts: tuple[Attempt, ...]
    rows: tuple[Row, ...]
    evaluations: tuple[Evaluation, ...]
    is_running: bool
    """Whether a launch holds the directory now."""
    lacks: tuple[str, ...]
    """Sentences on what is missing or damaged."""

    @property
    def last_step(self) -> int | None:
        """The last step that was logged; None before the first."""
        return self.rows[-1].step if self.rows else None


def read_run(path: Path) -> RunRecord:
    """Return what a run has written.

    Raise InvalidRequestError for a folder that is none of a run.
    """
    run = RunDirectory(path)
    if not path.is_dir():
        raise InvalidRequestError(
            Phrase("--html {path}: there is no such folder: name a run directory", path=path)
        )
    if not any(file.exists() for file in (run.lock, run.plan, run.metrics, run.report)):
        raise InvalidRequestError(
            Phrase(
                "--html {path} is not a run directory: it has no plan.yaml, metrics.jsonl or "
                "report.json",
                path=path,
            )
        )
    lacks: list[str] = []
    return RunRecord(
        path=path,
        plan=_plan(run, lacks),
        report=_json(run.report, Report, lacks, Phrase("the run has not finished")),
        environment=_json(run.environment, Environment, lacks, Phrase("no rank has started")),
        attempts=_json(run.attempts, tuple[Attempt, ...], lacks, Phrase("no rank has started"))
        or (),
        rows=_latest(_lines(run.metrics, Row, lacks, Phrase("no step has been logged"))),
        evaluations=tuple(_lines(run.evaluations, Evaluation, lacks, None)),
        is_running=is_locked(run),
        lacks=tuple(lacks),
    )


def _plan(run: RunDirectory, lacks: list[str]) -> Plan | None:
    try:
        return read_plan(run.plan)
    except InvalidFileError as error:
        lacks.append(
            Phrase(
                "{name} is missing or damaged ({reason}): no prediction and no settings are shown.",
                name=run.plan.name,
                reason=error.reason,
            )
        )
        return None


def _json(path: Path, kind: type[T], lacks: list[str], otherwise: str) -> T | None:
    """Return a file's content; None, with a sentence on it, if the file is missing or damaged."""
    if not path.exists():
        lacks.append(Phrase("{name} is missing: {otherwise}.", name=path.name, otherwise=otherwise))
        return None
    try:
        return convert(read_json(path), kind)
    except InvalidFileError as error:
        lacks.append(Phrase("{name} is damaged: it {reason}.", name=path.name, reason=error.reason))
    except (ValidationError, RecursionError) as error:
        lacks.append(Phrase("{name} is damaged: {error}.", name=path.name, error=reason_of(error)))
    return None


def _lines(path: Path, kind: type[T], lacks: list[str], otherwise: str | None) -> list[T]:
    """Return the rows of a file of JSON lines; how many cannot be read is told."""
    if not path.is_file():
        if otherwise is not None:
            lacks.append(
                Phrase("{name} is missing: {otherwise}.", name=path.name, otherwise=otherwise)
            )
        return []
    read = list(_read_lines(path, kind))
    rows = [row for row in read if row is not None]
    if len(rows) < len(read):
        lacks.append(
            Phrase(
                "{name}: {number:,} of {total:,} {total[line|lines]} cannot be read.",
                name=path.name,
                number=len(read) - len(rows),
                total=len(read),
            )
        )
    return rows


def _read_lines(path: Path, kind: type[T]) -> Iterator[T | None]:
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                yield convert(json.loads(line), kind)
            except (ValueError, RecursionError):
                yield None


def _latest(rows: list[Row]) -> tuple[Row, ...]:
    """Return the rows by step; of a step that was made twice, the later one."""
    by_step: Mapping[int, Row] = {row.step: row for row in rows}
    return tuple(by_step[step] for step in sorted(by_step))


def is_number(value: float | None) -> bool:
    """Return whether a value is there and finite."""
    return value is not None and math.isfinite(value)
