"""What a check finds: a verdict, a line of facts, and what to do where there is a fault."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

Verdict = Literal["pass", "warn", "fail"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    verdict: Verdict
    found: str
    remedy: str | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def passed(found: str) -> Finding:
    return Finding(verdict="pass", found=found)


def warned(found: str, remedy: str) -> Finding:
    """Training goes, but slower or not in every way."""
    return Finding(verdict="warn", found=found, remedy=remedy)


def failed(found: str, remedy: str) -> Finding:
    """Training will not go."""
    return Finding(verdict="fail", found=found, remedy=remedy)
