"""How a process joins the other ranks of a run, or forms a group of one."""

import os
from datetime import timedelta

import torch
import torch.distributed

from launcher.compat.accelerate import fsdp_on_the_cpu, tensor_parallel_on_the_cpu
from launcher.compat.deepspeed import compile_no_collectives
from planner.plan.schema import Plan

RANK_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
ALONE = dict(zip(RANK_VARIABLES, ("0", "0", "1", "1"), strict=True))


REDUCES_ON_THE_HOST = {"ACCELERATE_USE_FSDP": "true", "FSDP_OFFLOAD_PARAMS": "true"}
"""Variables with which accelerate joins ranks by gloo for what is on the host, beside NCCL: norms
of gradients, and the parameters that are written.

read: accelerate/state.py at 1.15.0, PartialState.__init__.
"""


def collective_limit_s(plan: Plan) -> int:
    """Return the seconds until a collective fails; the hang watch is earlier, and names a rank."""
    return 2 * plan.training.hang_limit_s


def backend_of(plan: Plan) -> str:
    """Return the collectives of a plan's ranks: gloo beside NCCL for what FSDP has on the host."""
    if plan.hardware.device == "cpu":
        return "gloo"
    on_host = plan.parallel.strategy == "fsdp" and plan.parallel.offload != "none"
    return "cuda:nccl,cpu:gloo" if on_host else "nccl"


def join_process_group(plan: Plan) -> None:
    """Join the group of all ranks where the trainer does not.

    DeepSpeed on the CPU needs gloo to be chosen beforehand. A single rank needs no group, and must
    not look like one of several.
    """
    if plan.parallel.strategy == "single":
        for name in RANK_VARIABLES:
            os.environ.pop(name, None)
    elif plan.parallel.strategy == "fsdp" and plan.hardware.device == "cpu":
        fsdp_on_the_cpu()
    elif plan.parallel.strategy == "tensor" and plan.hardware.device == "cpu":
        tensor_parallel_on_the_cpu()
    elif plan.parallel.strategy == "fsdp" and plan.parallel.offload != "none":
        os.environ.update(REDUCES_ON_THE_HOST)
    elif plan.parallel.zero_stage and plan.hardware.device == "cpu":
        import deepspeed

        compile_no_collectives()
        limit = timedelta(seconds=collective_limit_s(plan))
        deepspeed.init_distributed("gloo", timeout=limit)


def join_alone(plan: Plan) -> None:
    """Form a group of one rank without a network; DeepSpeed reads its rank in the environment.

    A process that is in a group already stays there.
    """
    if torch.distributed.is_initialized():
        return
    os.environ.update(ALONE)
    if plan.parallel.zero_stage and plan.hardware.device == "cpu":
        compile_no_collectives()
    torch.distributed.init_process_group(
        backend_of(plan),
        store=torch.distributed.HashStore(),  # type: ignore[attr-defined]
        rank=0,
        world_size=1,
    )
