"""``launch plan.yaml --rehearse --simulate CARD[:N]``: the plan on the real stack, without a card.

The CUDA build of PyTorch runs three real steps on simulated cards, one process per rank, and its
own allocator counts. Does not import torch: the loader finds the stand-ins when a process starts.
"""

import json
import os
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from launcher.rehearsal.phases import Phases, random_weights
from launcher.rehearsal.table import (
    Comparison,
    Side,
    largest_phase,
    show,
)
from launcher.run.process import command_ending_with_parent
from launcher.run.rank_commands import planned_environment, rank_environment
from launcher.run.read_plan import plan_text
from launcher.simulated_gpu.environment import simulated_environment
from launcher.simulated_gpu.machine_file import SimulatedCards, parse_cards
from planner.base.errors import InvalidRequestError, UserError
from planner.base.python_children import module_command
from planner.plan.schema import Plan

LIMIT_SECONDS = 900
LOOK_SECONDS = 0.2
UNKNOWN_FUNCTION = 70
"""Exit code of a process that called what is not simulated. read: csrc/cuda/symbols.c."""


def rehearse_simulated(plan: Plan, cards_text: str, *, as_json: bool) -> None:
    """Rehearse on the cards that the text names, and print the prediction beside the counted
    bytes."""
    cards = cards_for(plan, cards_text)
    with TemporaryDirectory(prefix="simulated-gpu-") as scratch:
        ranks = counted_ranks(plan, cards, Path(scratch))
    predicted = largest_phase(random_weights(plan))
    comparison = Comparison("counted", predicted, counted_side(ranks))
    show(plan, comparison, as_json=as_json)


def cards_for(plan: Plan, text: str) -> SimulatedCards:
    """Return the cards, as many as the plan has ranks; raise InvalidRequestError otherwise."""
    cards, ranks = parse_cards(text), plan.parallel.world_size
    if plan.hardware.device != "cuda":
        raise InvalidRequestError("the plan is for the CPU: --simulate is for plans for GPUs")
    if ":" in text and cards.count != ranks:
        raise InvalidRequestError(
            f"--simulate {text}: the plan has {ranks} ranks, one for each GPU: leave :N out"
        )
    return parse_cards(f"{text}:{ranks}") if ":" not in text else replace(cards, count=ranks)


def counted_side(ranks: Sequence[Phases]) -> Side:
    """Return the largest reading of any rank, phase by phase."""
    largest: Phases = {}
    for phases in ranks:
        for phase, readings in phases.items():
            before = largest.get(phase, {})
            largest[phase] = {key: max(n, before.get(key, 0)) for key, n in readings.items()}
    peak = max(readings["allocated"] for readings in largest.values())
    return Side(peak_allocated_bytes=peak, phases=largest)


def counted_ranks(plan: Plan, cards: SimulatedCards, scratch: Path) -> list[Phases]:
    """Return the readings of every rank; every rank runs in a separate process.

    Raise UserError where one runs out of memory, calls what is not simulated, or takes too long.
    """
    plan_file = scratch / "plan.yaml"
    plan_file.write_text(plan_text(plan))
    # One rank alone would see the first card only; here it has no others.
    merged = rank_environment(plan, planned_environment(plan, _without_cards(os.environ)))
    environment = simulated_environment(cards, merged, scratch)
    with ExitStack() as stack:
        ranks = [
            _started(stack, environment, plan_file, rank, cards.count)
            for rank in range(cards.count)
        ]
        _wait(ranks)
    return [json.loads((scratch / f"rank-{rank.number}.json").read_text()) for rank in ranks]


def _without_cards(caller: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in caller.items() if name != "CUDA_VISIBLE_DEVICES"}


@dataclass(frozen=True, slots=True)
class _Rank:
    number: int
    process: subprocess.Popen[bytes]
    errors: Path


def _started(
    stack: ExitStack, environment: Mapping[str, str], plan_file: Path, rank: int, count: int
) -> _Rank:
    errors = plan_file.with_name(f"rank-{rank}.err")
    with errors.open("wb") as log:
        process = subprocess.Popen(
            command_ending_with_parent(
                [
                    *module_command("launcher.rehearsal.simulated_rank"),
                    *(str(plan_file), str(plan_file.parent)),
                ]
            ),
            env={**environment, **_places(rank, count)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    stack.callback(process.wait)
    stack.callback(process.kill)
    return _Rank(rank, process, errors)


def _places(rank: int, count: int) -> dict[str, str]:
    """Return the variables that DeepSpeed wants; the ranks meet in a file, not at the address."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": socket.gethostbyname("localhost"),
        "MASTER_PORT": "29500",
    }


def _wait(ranks: Sequence[_Rank]) -> None:
    """Wait until all ranks have ended; raise an error if one fails or the time limit passes."""
    deadline = time.monotonic() + LIMIT_SECONDS
    while any(rank.process.poll() is None for rank in ranks):
        _raise_for_failure(ranks)
        if time.monotonic() > deadline:
            raise UserError(f"the simulated ranks did not end within {LIMIT_SECONDS} s")
        time.sleep(LOOK_SECONDS)
    _raise_for_failure(ranks)


def _raise_for_failure(ranks: Sequence[_Rank]) -> None:
    for rank in ranks:
        code = rank.process.poll()
        if not code:
            continue
        said = rank.errors.read_text(errors="replace").strip()
        if code in (UserError.exit_code, UNKNOWN_FUNCTION):
            raise UserError(said.splitlines()[-1].removeprefix("error: "))
        raise RuntimeError(f"simulated rank {rank.number} ended with code {code}:\n{said}")
