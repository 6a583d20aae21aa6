"""All checks in their order: made, drawn, and counted."""

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from launcher.display.console import console_on
from launcher.doctor import driver_and_cards, packages, system
from launcher.doctor.finding import Finding, Verdict
from launcher.doctor.probe_runner import ProbeRunner
from launcher.doctor.probes import ALL_REDUCE, FOUR_BIT
from launcher.doctor.subject import Subject
from planner.base.errors import UserError
from planner.base.phrases import Joined, Phrase, spoken
from planner.hardware.detect import read_machine

WIDEST = 110
"""Columns of the table at most: longer lines are hard to read."""
VERDICTS: dict[Verdict, str] = {
    "pass": Phrase("pass"),
    "warn": Phrase("warn"),
    "fail": Phrase("fail"),
}
STYLES: dict[Verdict, str] = {"pass": "green", "warn": "yellow", "fail": "bold red"}


@dataclass(frozen=True, slots=True)
class Check:
    """One row of the table."""

    name: str
    look: Callable[[Subject], Finding]


def probed(name: str) -> Check:
    """Return a check that a probe makes."""
    return Check(name, lambda subject: subject.probed[name])


CHECKS = (
    Check(Phrase("packages"), packages.packages),
    Check(Phrase("driver"), driver_and_cards.driver),
    Check("GPUs", driver_and_cards.gpus),
    Check("CUDA", driver_and_cards.cuda_and_torch),
    Check(Phrase("kernels"), driver_and_cards.architecture),
    Check("bf16", driver_and_cards.bf16),
    probed(FOUR_BIT),
    probed(ALL_REDUCE),
    Check(Phrase("peer access"), driver_and_cards.peer_access),
    Check(Phrase("CPU Adam"), system.cpu_adam),
    Check(Phrase("shared memory"), system.shared_memory),
    Check(Phrase("locked memory"), system.locked_memory),
    Check(Phrase("open files"), system.open_files),
    Check(Phrase("disk"), system.disk),
)
BESIDE_PROBES = (system.cpu_adam, system.disk)
"""Checks that are made while the probes load their libraries."""

Findings = Mapping[str, Finding]


def examine(*, as_json: bool) -> int:
    """Check this machine and print the findings.

    Returns the exit code: 0 if no check fails, else that of a user's error.
    """
    began = time.perf_counter()
    with console_on(sys.stderr).status(Phrase("checking this machine")):
        findings = findings_of(dict(os.environ), Path.cwd())
    seconds = time.perf_counter() - began
    if as_json:
        print(json.dumps(document(findings, seconds), indent=2))
    else:
        print_table(findings, seconds, console_on(sys.stdout))
    failures = sum(finding.verdict == "fail" for finding in findings.values())
    return UserError.exit_code if failures else 0


def findings_of(environ: Mapping[str, str], directory: Path) -> dict[str, Finding]:
    """Return the finding of every check, in the order of the table."""
    probes = ProbeRunner(environ)
    subject = Subject(
        machine=read_machine(environ, directory), environ=environ, directory=directory, torch=None
    )
    early = {check.name: check.look(subject) for check in CHECKS if check.look in BESIDE_PROBES}
    results = probes.results()
    subject = replace(subject, torch=results.torch, probed=results.findings)
    return {
        check.name: early[check.name] if check.name in early else check.look(subject)
        for check in CHECKS
    }


def document(findings: Findings, seconds: float) -> dict[str, object]:
    """Return the findings and their counts as ``--json`` prints them."""
    counts = counted(findings)
    return {
        "checks": [{"name": name, **finding.as_dict()} for name, finding in findings.items()],
        "passed": counts["pass"],
        "warned": counts["warn"],
        "failed": counts["fail"],
        "seconds": round(seconds, 1),
    }


def counted(findings: Findings) -> Counter[Verdict]:
    """Return the number of findings by verdict."""
    return Counter(finding.verdict for finding in findings.values())


def print_table(findings: Findings, seconds: float, console: Console) -> None:
    """Draw the table and, below it, the line with the counts."""
    width = min(console.width, WIDEST)
    console.print(table(findings), width=width)
    console.print(Text(spoken(closing_line(findings, seconds)), style="bold"), width=width)


def table(findings: Findings) -> Table:
    """Draw one row per check, its remedy below it."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True, style="bold")
    grid.add_column(overflow="fold")
    for name, finding in findings.items():
        verdict = Text(spoken(VERDICTS[finding.verdict]), style=STYLES[finding.verdict])
        grid.add_row(verdict, name, Text(spoken(finding.facts)))
        if finding.remedy is not None:
            grid.add_row("", "", arrow(finding.remedy))
    grid.add_row()
    return grid


def arrow(remedy: str) -> Table:
    """Draw a remedy after an arrow; its further lines begin below its first word."""
    grid = Table.grid(padding=(0, 1))
    grid.add_row(Text("->", style="cyan"), Text(spoken(remedy), style="cyan"))
    return grid


def closing_line(findings: Findings, seconds: float) -> str:
    """Return the counts by verdict and the time all checks took."""
    counts = counted(findings)
    numbers: Sequence[str] = [
        Phrase("{number} pass", number=counts["pass"]),
        Phrase("{number} warn", number=counts["warn"]),
        Phrase("{number} fail", number=counts["fail"]),
    ]
    return Phrase("{counts} ({seconds:.1f} s)", counts=Joined(", ", numbers), seconds=seconds)
