"""python -m benchmarks.simulated.edge: chosen plans on cards that just have what they may take.

Each plan is rehearsed on a simulated card of exactly its highest predicted bytes, where it must
run: load, the longest micro-batches, optimizer steps, an evaluation, a generated answer, a
checkpoint, a save. Then on one that has less than its lowest: it must run out of memory, and its
fallbacks are tried as ``launch`` does, with the same global batch.
"""

import argparse
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from benchmarks.marks import Marks
from benchmarks.simulated.__main__ import (
    MAX_CARDS,
    POINT_SECONDS,
    ask,
    keep_environment,
    last_line,
    planned,
    serving,
)
from benchmarks.simulated.points import Point, points
from benchmarks.simulated.result_rows import Row, append, read_rows
from benchmarks.simulated.summary import PAGE
from launcher.compat.torch_text import room_bytes
from launcher.lifecycle.fallbacks import describe_layout, fallback_plans, within_room
from launcher.run.read_plan import plan_text
from launcher.simulated_gpu.environment import simulated_environment
from launcher.simulated_gpu.machine_file import SimulatedCards, machine_text, parse_cards
from planner.base.units import MIB, ceil_div
from planner.memory.device_memory import overheads
from planner.plan.schema import Plan

EDGES = Path(__file__).with_name("edges.yaml")
RESULTS = Path(__file__).parent.parent / "results" / "simulated-edge.csv"
COLUMNS = (
    *("point", "high_mib", "at_high", "too_small_mib", "when_too_small", "attempts", "fallback"),
    *("seconds", "reason"),
)
TOO_SMALL = 0.995
"""Share of the lowest predicted bytes; allocated memory is predicted better than that."""
RAN = "runs"
NO_FALLBACK = "none fits"
MARKS = Marks("<!-- edges -->", "<!-- end of edges -->")


def main() -> None:
    """Run what is left, or show what was seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--cards", help="only plans for this card")
    parser.add_argument("--show", action="store_true", help="run nothing")
    parser.add_argument(
        "--write", action="store_true", help="put the table into the documentation, run nothing"
    )
    options = parser.parse_args()
    options.show |= options.write
    deadline = time.monotonic() + 60 * (0 if options.show else options.minutes)
    done = {row["point"] for row in read_rows(RESULTS)}
    left = [
        point
        for point in points(EDGES)
        if point.name not in done and options.cards in (None, point.card)
    ]
    for card in dict.fromkeys(point.card for point in left):
        if time.monotonic() > deadline:
            break
        with (
            TemporaryDirectory(prefix="simulated-gpu-") as scratch,
            machine_of(card, scratch) as it,
        ):
            for point in (point for point in left if point.card == card):
                if time.monotonic() > deadline:
                    break
                row = edge_of(it, point)
                append(RESULTS, COLUMNS, [row])
                keep_environment(RESULTS)
                print(*row.values(), flush=True)
    rows = read_rows(RESULTS)
    print(summary(rows))
    if options.write:
        MARKS.write(PAGE, markdown(rows))


@dataclass(frozen=True, slots=True)
class Machine:
    """A process on four simulated cards whose sizes are in a file."""

    server: "subprocess.Popen[str]"
    cards: SimulatedCards
    file: Path

    def rehearse(self, plan: Plan, capacity_mib: int) -> str:
        """Return ``RAN``, or the last line that the first rank that failed said."""
        self.file.write_text(machine_text(replace(self.cards, cuda_mib=capacity_mib)))
        count = plan.parallel.world_size
        with TemporaryDirectory(prefix="simulated-point-") as name:
            folder = Path(name)
            (folder / "plan.yaml").write_text(plan_text(plan))
            codes = ask(self.server, folder, count, "evaluation and checkpoint")
            failed = [rank for rank, code in enumerate(codes) if code]
            if not failed:
                return RAN if None not in codes else f"not ended within {POINT_SECONDS} s"
            return last_line((folder / f"rank-{failed[0]}.err").read_text(errors="replace"))


@contextmanager
def machine_of(card: str, scratch: str) -> Iterator[Machine]:
    """A machine of four such cards."""
    cards = parse_cards(f"{card}:{MAX_CARDS}")
    environment = simulated_environment(cards, os.environ, Path(scratch))
    with serving(environment) as server:
        yield Machine(server, cards, Path(environment["SIMULATED_GPU_MACHINE"]))


def edge_of(machine: Machine, point: Point) -> Row:
    """Return how a point's plan runs on a card that is just large enough and on a smaller one."""
    began = time.monotonic()
    row = {**dict.fromkeys(COLUMNS, ""), "point": point.name}
    with TemporaryDirectory(prefix="simulated-point-") as name:
        plan = planned(point, Path(name))
    if isinstance(plan, str):
        return {**row, "reason": plan}
    high = ceil_div(plan.prediction.high_bytes, MIB)
    counted = plan.prediction.low_bytes - uncounted_bytes(plan)
    small = int(counted * TOO_SMALL) // MIB
    at_high = machine.rehearse(plan, high)
    said = machine.rehearse(plan, small)
    attempts, fallback = recovery(machine, plan, said, small) if said != RAN else (0, "")
    return {
        **row,
        "high_mib": high,
        "at_high": at_high,
        "too_small_mib": small,
        "when_too_small": said.partition(" on ")[0],
        "attempts": attempts,
        "fallback": fallback,
        "seconds": round(time.monotonic() - began, 1),
    }


def uncounted_bytes(plan: Plan) -> int:
    """Return the bytes of the low end that a simulated card does not take: those of communicators,
    which are NCCL's own."""
    return overheads().nccl_mib.low * MIB if plan.parallel.world_size > 1 else 0


def recovery(machine: Machine, plan: Plan, said: str, small_mib: int) -> tuple[int, str]:
    """Return how many fallbacks were tried, and the layout of the first that ran."""
    leaner, _ = within_room(fallback_plans(plan), room_bytes(said))
    for number, fallback in enumerate(leaner, 1):
        assert fallback.batch.global_batch_size == plan.batch.global_batch_size
        if machine.rehearse(fallback, small_mib) == RAN:
            return number, describe_layout(fallback)
    return len(leaner), NO_FALLBACK


class Outcomes(NamedTuple):
    """Rows of plans that ran, ran out of memory on a smaller card, and recovered there."""

    ran: list[Row]
    out: list[Row]
    recovered: list[Row]


def outcomes(rows: Sequence[Row]) -> Outcomes:
    """Return what became of planned rows."""
    out = [row for row in rows if "runs out of memory" in row["when_too_small"]]
    return Outcomes(
        ran=[row for row in rows if row["at_high"] == RAN],
        out=out,
        recovered=[row for row in out if row["fallback"] not in ("", NO_FALLBACK)],
    )


def markdown(rows: Sequence[Row]) -> str:
    """Return the table of the documentation: plans by their cards, and what became of them."""
    by_cards: dict[str, list[Row]] = {}
    for row in rows:
        if not row["reason"]:
            by_cards.setdefault(row["point"].partition("--")[0], []).append(row)
    lines = [
        "| cards | plans | run at the high end | run out below the low end | recover |",
        "|---|---:|---:|---:|---:|",
    ]
    every = [row for group in by_cards.values() for row in group]
    for cards, group in (*by_cards.items(), ("**all**", every)):
        counts = (len(group), *map(len, outcomes(group)))
        lines.append(f"| {cards} | {' | '.join(map(str, counts))} |")
    return "\n".join(lines)


def summary(rows: Sequence[Row]) -> str:
    """Return how many ran, ran out and recovered, then each that did not do as it must."""
    planned_rows = [row for row in rows if not row["reason"]]
    ran, out, recovered = outcomes(planned_rows)
    lines = [
        f"{len(ran)} of {len(planned_rows)} run on a card of their highest predicted bytes",
        f"{len(out)} of {len(planned_rows)} run out on one of less than their lowest",
        f"{len(recovered)} of those recover by a fallback of the same global batch",
    ]
    lines += [
        f"{row['point']}: {row['at_high']}; {row['when_too_small']}; {row['fallback']}"
        for row in planned_rows
        if row not in ran or row not in recovered
    ]
    return "\n".join(lines + [f"{row['point']}: {row['reason']}" for row in rows if row["reason"]])


if __name__ == "__main__":
    main()
