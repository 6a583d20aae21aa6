"""``python -m benchmarks.fuzz``: mutated input, and how often the answer is what it must be.

A case must end with exit code 0, or with 2 and one line, in at most 5 s of processor time and
300 MiB. ``--seed`` and a case's number repeat it: ``--kind configs --only 17``. ``--write`` keeps
the counts in benchmarks/results.
"""

import argparse
import json
import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.fuzz.cases import KINDS
from benchmarks.fuzz.child import Outcome, run
from benchmarks.measure.environment import host_environment

PACKAGES = ("msgspec", "PyYAML", "pyarrow", "rich")
RESULTS = Path(__file__).parents[1] / "results"


class Ran(NamedTuple):
    kind: str
    number: int
    outcome: Outcome


def ran(kind: str, seed: int, numbers: range) -> Iterator[Ran]:
    """Run the cases of a kind, each in a folder of its own."""
    for number in numbers:
        rng = random.Random(f"{seed} {kind} {number}")
        folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
        try:
            yield Ran(kind, number, run(KINDS[kind](rng, folder), folder))
        finally:
            shutil.rmtree(folder)


def described(case: Ran) -> str:
    last = case.outcome.errors.strip().splitlines()[-1:] or [""]
    return f"  {case.kind} {case.number}: {case.outcome.fault}: {last[0][:300]!r}"


def main() -> int:
    """Run the cases that the options name; return 1 if one ended as none must."""
    parser = argparse.ArgumentParser(prog="benchmarks.fuzz")
    parser.add_argument("--cases", type=int, default=1_000, help="cases of each kind")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kind", choices=KINDS, action="append", help="only this kind")
    parser.add_argument("--only", type=int, help="only the case of this number")
    parser.add_argument("--write", action="store_true", help="keep the result in results/")
    given = parser.parse_args()
    numbers = range(given.cases) if given.only is None else range(given.only, given.only + 1)
    measured: dict[str, Any] = {}
    print("kind             cases   done  refused  wrong  most s   MiB")
    for kind in given.kind or KINDS:
        cases = list(ran(kind, given.seed, numbers))
        outcomes = [case.outcome for case in cases]
        wrong = [case for case in cases if case.outcome.fault]
        done = sum(outcome.code == 0 for outcome in outcomes)
        refused = sum(outcome.code == 2 for outcome in outcomes)
        seconds, mib = (max(getattr(o, name) for o in outcomes) for name in ("seconds", "mib"))
        print(
            f"{kind:<15} {len(cases):>6,} {done:>6,} {refused:>8,} {len(wrong):>6,}"
            f" {seconds:>7.2f} {mib:>5.0f}",
            flush=True,
        )
        for case in wrong:
            print(described(case), flush=True)
        measured[kind] = {
            "cases": len(cases),
            "done": done,
            "refused": refused,
            "wrong": [described(case).strip() for case in wrong],
            "most_cpu_s": round(seconds, 2),
            "most_mib": round(mib),
        }
    if given.write:
        write(given.seed, measured)
    return int(any(kind["wrong"] for kind in measured.values()))


def write(seed: int, measured: dict[str, Any]) -> None:
    """Write the counts of a seed into the file of the day, beside those of other seeds."""
    environment = host_environment(PACKAGES)
    file = RESULTS / f"fuzz--{environment['date']}.json"
    before = json.loads(file.read_bytes())["measured"] if file.is_file() else {}
    seeds = before | {f"seed {seed}": measured}
    cases = sum(kind["cases"] for kinds in seeds.values() for kind in kinds.values())
    document = {
        "run": {"benchmark": "fuzz", "seeds": list(seeds), "cases": cases},
        "measured": seeds,
        "environment": environment,
    }
    file.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
