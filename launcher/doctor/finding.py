"""Result of one check: a verdict, one line of facts, and what to do about a fault."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from planner.base.phrases import as_data, from_data

Verdict = Literal["pass", "warn", "fail"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Result of one check, as a row of the table and as an entry of ``--json``."""

    verdict: Verdict
    facts: str
    """One line."""
    remedy: str | None = None
    """What to do, in one line; None if the check passes."""

    def as_dict(self) -> dict[str, Any]:
        """Return the finding as a JSON object."""
        return asdict(self)

    def as_message(self) -> dict[str, Any]:
        """Return the finding for another process, which can say it in its language."""
        remedy = None if self.remedy is None else as_data(self.remedy)
        return {"verdict": self.verdict, "facts": as_data(self.facts), "remedy": remedy}


def finding_of(message: Mapping[str, Any]) -> Finding:
    """Return the finding that another process has made a message of."""
    remedy = None if message["remedy"] is None else from_data(message["remedy"])
    return Finding(verdict=message["verdict"], facts=from_data(message["facts"]), remedy=remedy)


def passed(facts: str) -> Finding:
    """Return a finding of a check that found no fault, or could not look."""
    return Finding(verdict="pass", facts=facts)


def warned(facts: str, remedy: str) -> Finding:
    """Return a finding with which training runs, but slower or not by every method."""
    return Finding(verdict="warn", facts=facts, remedy=remedy)


def failed(facts: str, remedy: str) -> Finding:
    """Return a finding with which training does not run."""
    return Finding(verdict="fail", facts=facts, remedy=remedy)
