"""What torch elastic's log says of the ranks: how each ended, and what it printed at first."""

import re
from pathlib import Path

_ENDED = re.compile(r"^\s*rank\s*:\s*(\d+).*?^\s*exitcode\s*:\s*(-?\d+)", re.DOTALL | re.M)
_OWN_LINE = re.compile(r"^[A-Z]\d{4} .*torch/distributed/elastic/", re.M)
"""read: torch/_logging at 2.13: level, month and day, then time, process and place."""


def ended_ranks(log_file: Path) -> dict[int, int]:
    """Exit codes of the ranks that failed, from elastic's summary; minus the signal of one killed.

    Elastic itself ends those that are left with SIGTERM. What it calls the root cause is the
    rank that it looked at first, whichever was the first to fail.
    """
    return {int(rank): int(code) for rank, code in _ENDED.findall(_read(log_file))}


def before_elastic(log_file: Path) -> list[str]:
    """What ranks have printed before they had a log of their own, as while they import."""
    text = _read(log_file)
    own = _OWN_LINE.search(text)
    said = text[: own.start()] if own is not None else text
    return [line for line in said.splitlines() if line.strip()]


def _read(log_file: Path) -> str:
    return log_file.read_text(encoding="utf-8", errors="replace") if log_file.is_file() else ""
