"""One rank of a rehearsal on simulated cards: the readings of its card, written as JSON.

python -m launcher.rehearsal.simulated_rank PLAN FOLDER, with RANK and WORLD_SIZE set
"""

import json
import logging
import os
import sys
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed

from launcher.compat.deepspeed import form_sequence_groups
from launcher.rehearsal.engine import engine_of_rank, update_from_the_start
from launcher.rehearsal.meter import CudaCounters, Meter
from launcher.rehearsal.phases import Between, Phases
from launcher.rehearsal.rehearse import quiet_libraries
from launcher.rehearsal.step import rehearse_step
from launcher.run.read_plan import read_plan
from launcher.training.model_building import pin_attention_backends
from launcher.training.process_group import backend_of, join_process_group
from planner.base.errors import UserError
from planner.base.printable import print_text
from planner.plan.schema import Plan

JOIN_SECONDS = 300
STEPS, ACCUMULATED = 3, 4
"""Micro-batches. The first step makes the optimizer's states, or DeepSpeed's buffers; the next is
as all later ones. Where micro-batches are accumulated, two of them make a step."""


WATCHDOG_S = 0.1
"""Seconds between two looks of NCCL's watchdog: kWatchdogThreadSleepMillis.

read: torch/csrc/distributed/c10d/ProcessGroupNCCL.cpp at 2.13.
"""


class SimulatedCounters(CudaCounters):
    """Counters of a card on which no kernel takes any time.

    NCCL's process group holds the tensors of a collective for which nobody waits, such as DDP's
    buckets, until its watchdog has seen the end of it and another collective begins. A phase of
    training takes longer than the watchdog's period on a card and no time here, so that what is
    held would be chance.
    """

    def start(self) -> None:
        """Begin a phase once the watchdog has looked."""
        if torch.distributed.is_initialized():
            time.sleep(2 * WATCHDOG_S)
        super().start()


def main(plan_file: Path, folder: Path, between: Between = "nothing") -> None:
    """Rehearse as the rank that the environment names, and leave ``rank-N.json`` in the folder."""
    logging.disable(logging.WARNING)
    plan, rank = read_plan(plan_file), int(os.environ["RANK"])
    torch.cuda.set_device(rank)
    pin_attention_backends()
    _join(plan, rank, folder)
    with quiet_libraries():
        counted = _counted(plan, rank, between)
    (folder / f"rank-{rank}.json").write_text(json.dumps(counted))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _join(plan: Plan, rank: int, folder: Path) -> None:
    join_process_group(plan)
    if plan.parallel.strategy == "single":
        return
    torch.distributed.init_process_group(
        backend_of(plan),
        init_method=(folder / "meeting").as_uri(),
        rank=rank,
        world_size=plan.parallel.world_size,
        timeout=timedelta(seconds=JOIN_SECONDS),
    )
    if plan.parallel.zero_stage:
        import deepspeed

        deepspeed.init_distributed()
    if plan.parallel.sequence_parallel_size > 1:
        form_sequence_groups(plan.parallel.sequence_parallel_size)


def _counted(plan: Plan, rank: int, between: Between) -> Phases:
    device = torch.device("cuda", rank)
    meter = Meter(SimulatedCounters(device))
    engine = engine_of_rank(plan, make_update=update_from_the_start)
    steps = ACCUMULATED if plan.batch.gradient_accumulation_steps > 1 else STEPS
    try:
        rehearse_step(plan, device, meter, steps=steps, make_engine=engine, between=between)
    except torch.cuda.OutOfMemoryError as error:
        reason = str(error).partition(". Of the allocated")[0]
        raise UserError(
            f"rank {rank} runs out of memory in {meter.now} on {torch.cuda.get_device_name(rank)} "
            f"(simulated): {reason}"
        ) from error
    return meter.phases


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
    except UserError as user_error:
        print_text(f"error: {user_error}", file=sys.stderr)
        sys.exit(user_error.exit_code)
