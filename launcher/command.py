"""The commands that run a plan, and the environment they run in. Nothing is started here."""

import os
from collections.abc import Mapping
from pathlib import Path

from planner.plan import Plan

ALLOCATOR_VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
"""The name since PyTorch 2.9 and the older one; either is read by 2.9 and later."""


def torchrun_command(
    plan: Plan, run_directory: Path, *, python: str, checkpoint: Path | None = None
) -> list[str]:
    """An argument list, never a shell string, so no quoting can go wrong."""
    return [
        *(python, "-m", "torch.distributed.run", "--standalone"),
        *("--nproc-per-node", str(plan.parallel.gpus_per_node)),
        *("-m", "launcher.train", str(run_directory)),
        *([] if checkpoint is None else [str(checkpoint)]),
    ]


def preparation_command(run_directory: Path, *, python: str) -> list[str]:
    """Fetches the model and tokenizes the data, before any rank exists."""
    return [python, "-m", "launcher.prepare", str(run_directory)]


def environment_changes(plan: Plan, *, cores: int) -> dict[str, str]:
    """What the ranks find in their environment beside the caller's own."""
    changes = {
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if plan.hardware.device == "cuda":
        changes["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"
    else:
        changes["DS_ACCELERATOR"] = "cpu"
        changes["OMP_NUM_THREADS"] = str(max(1, cores // plan.parallel.gpus_per_node))
        # A team that spins while it waits is many times slower when another process wants a core.
        changes["OMP_WAIT_POLICY"] = "PASSIVE"
    return changes


def merged_environment(caller: Mapping[str, str], changes: Mapping[str, str]) -> dict[str, str]:
    """The caller's environment with the changes; what a person set stays.

    Accelerate's own variables are left out: they would overrule the plan, and
    ``ACCELERATE_USE_CPU`` makes it skip DeepSpeed without a word.
    """
    merged = {name: value for name, value in caller.items() if not name.startswith("ACCELERATE_")}
    chosen_allocator = any(name in caller for name in ALLOCATOR_VARIABLES)
    for name, value in changes.items():
        if name in ALLOCATOR_VARIABLES and chosen_allocator:
            continue
        merged.setdefault(name, value)
    return merged


def planned_environment(plan: Plan, caller: Mapping[str, str]) -> dict[str, str]:
    """What every process of a plan's run finds here."""
    return merged_environment(caller, environment_changes(plan, cores=num_cores()))


def rank_environment(plan: Plan, merged: Mapping[str, str]) -> dict[str, str]:
    """For the ranks alone: all they read is on disk by then, so the hub is not asked again.

    One process that saw several cards would spread the model's replicas over all of them.
    """
    environment = {**merged, "HF_HUB_OFFLINE": "1"}
    if plan.hardware.device == "cuda" and plan.parallel.world_size == 1:
        visible = merged.get("CUDA_VISIBLE_DEVICES", "0")
        environment["CUDA_VISIBLE_DEVICES"] = visible.split(",")[0]
    return environment


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))
