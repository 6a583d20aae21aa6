"""All checks in their order: run, drawn, and counted."""

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from launcher.doctor import driver_and_cards, packages, system
from launcher.doctor.finding import Finding, Verdict
from launcher.doctor.probe_runner import Probes
from launcher.doctor.probes import ALL_REDUCE, FOUR_BIT
from launcher.doctor.subject import Patient
from planner.base.errors import UserError
from planner.hardware.detect import read_machine

WIDEST = 110
STYLES: dict[Verdict, str] = {"pass": "green", "warn": "yellow", "fail": "bold red"}


@dataclass(frozen=True, slots=True)
class Check:
    name: str
    look: Callable[[Patient], Finding]


def tried(name: str) -> Check:
    """A check that a process of its own has made."""
    return Check(name, lambda patient: patient.tried[name])


CHECKS = (
    Check("packages", packages.packages),
    Check("driver", driver_and_cards.driver),
    Check("GPUs", driver_and_cards.gpus),
    Check("CUDA", driver_and_cards.cuda_and_torch),
    Check("kernels", driver_and_cards.architecture),
    Check("bf16", driver_and_cards.bf16),
    tried(FOUR_BIT),
    tried(ALL_REDUCE),
    Check("peer access", driver_and_cards.peer_access),
    Check("CPU Adam", system.cpu_adam),
    Check("shared memory", system.shared_memory),
    Check("locked memory", system.locked_memory),
    Check("open files", system.open_files),
    Check("disk", system.disk),
)
BEFORE_TRIALS = (system.cpu_adam, system.disk)
"""Done while the probes load their libraries."""

Findings = Mapping[str, Finding]


def examine(*, as_json: bool) -> int:
    """Prints what was found; the exit code: 0 where nothing fails, else that of a user's error."""
    began = time.perf_counter()
    with Console(stderr=True).status("looking at the machine"):
        findings = findings_of(dict(os.environ), Path.cwd())
    seconds = time.perf_counter() - began
    if as_json:
        print(json.dumps(document(findings, seconds), indent=2))
    else:
        print_table(findings, seconds, Console(highlight=False))
    failures = sum(finding.verdict == "fail" for finding in findings.values())
    return UserError.exit_code if failures else 0


def findings_of(environ: Mapping[str, str], directory: Path) -> dict[str, Finding]:
    probes = Probes(environ)
    patient = Patient(
        machine=read_machine(environ, directory), environ=environ, directory=directory, torch=None
    )
    early = {check.name: check.look(patient) for check in CHECKS if check.look in BEFORE_TRIALS}
    trials = probes.results()
    patient = replace(patient, torch=trials.torch, tried=trials.findings)
    return {
        check.name: early[check.name] if check.name in early else check.look(patient)
        for check in CHECKS
    }


def document(findings: Findings, seconds: float) -> dict[str, object]:
    counts = counted(findings)
    return {
        "checks": [{"name": name, **finding.as_dict()} for name, finding in findings.items()],
        "passed": counts["pass"],
        "warned": counts["warn"],
        "failed": counts["fail"],
        "seconds": round(seconds, 1),
    }


def counted(findings: Findings) -> Counter[Verdict]:
    return Counter(finding.verdict for finding in findings.values())


def print_table(findings: Findings, seconds: float, console: Console) -> None:
    width = min(console.width, WIDEST)
    console.print(table(findings), width=width)
    console.print(Text(closing_line(findings, seconds), style="bold"), width=width)


def table(findings: Findings) -> Table:
    """A line a check; a remedy stands below what it is for."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True, style="bold")
    grid.add_column(overflow="fold")
    for name, finding in findings.items():
        verdict = Text(finding.verdict, style=STYLES[finding.verdict])
        grid.add_row(verdict, name, Text(finding.found))
        if finding.remedy is not None:
            grid.add_row("", "", arrow(finding.remedy))
    grid.add_row()
    return grid


def arrow(remedy: str) -> Table:
    """Its further lines begin where its first words do."""
    grid = Table.grid(padding=(0, 1))
    grid.add_row(Text("->", style="cyan"), Text(remedy, style="cyan"))
    return grid


def closing_line(findings: Findings, seconds: float) -> str:
    counts: Sequence[str] = [
        f"{counted(findings)['pass']} pass",
        f"{counted(findings)['warn']} warn",
        f"{counted(findings)['fail']} fail",
    ]
    return f"{', '.join(counts)} ({seconds:.1f} s)"
