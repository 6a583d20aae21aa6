"""The commands that run a plan, and the environment they run in. Nothing is started here."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from launcher.compat.torch_text import SEPARATE_STORES, rendezvous_options
from launcher.run.run_directory import RunDirectory
from planner.plan.schema import Plan

JOIN_SECONDS = 3600
"""For all nodes to meet: the first waits for the last, and for a lost one that is started again."""

ALLOCATOR_VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
"""The name since PyTorch 2.9 and the older one; either is read by 2.9 and later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendezvous:
    """Where the ranks of several nodes find each other, as one of the nodes joins it."""

    endpoint: str
    id: str
    num_nodes: int
    address: str
    """Of this node's own, which the others are told."""
    hosts_store: bool
    """Whether the endpoint is this node's, which then serves the store that all meet in."""
    clocks_agree: bool = True


def torchrun_command(
    plan: Plan,
    run: RunDirectory,
    *,
    python: str,
    checkpoint: Path | None = None,
    rendezvous: Rendezvous | None = None,
    max_restarts: int = 0,
) -> list[str]:
    """An argument list, never a shell string, so no quoting can go wrong."""
    return [
        *elastic_command(rendezvous, python=python, ranks=plan.parallel.gpus_per_node),
        *(["--max-restarts", str(max_restarts)] if max_restarts else []),
        *("-m", "launcher.training.rank", str(run.path)),
        *([] if run.node is None else ["--address", run.node]),
        *([] if checkpoint is None else ["--verified", str(checkpoint)]),
    ]


def elastic_command(rendezvous: Rendezvous | None, *, python: str, ranks: int) -> list[str]:
    """torch elastic, up to the module that each rank runs."""
    torchrun = [python, "-m", "torch.distributed.run"]
    if rendezvous is None:
        return [*torchrun, "--standalone", "--nproc-per-node", str(ranks)]
    options = rendezvous_options(
        hosts_store=rendezvous.hosts_store,
        join_timeout_s=JOIN_SECONDS,
        clocks_agree=rendezvous.clocks_agree,
    )
    return [
        *(*torchrun, "--nnodes", str(rendezvous.num_nodes), "--nproc-per-node", str(ranks)),
        *("--rdzv-backend", "c10d", "--rdzv-endpoint", rendezvous.endpoint),
        *("--rdzv-id", rendezvous.id, "--local-addr", rendezvous.address),
        *("--rdzv-conf", ",".join(f"{name}={value}" for name, value in options.items())),
    ]


def preparation_command(run: RunDirectory, *, python: str, shown_samples: int) -> list[str]:
    """Return the command that fetches the model and tokenizes the data, before any rank exists."""
    node = [] if run.node is None else ["--address", run.node]
    shown = ["--show-sample", str(shown_samples)]
    return [python, "-m", "launcher.lifecycle.prepare", str(run.path), *node, *shown]


def environment_changes(plan: Plan, *, cores: int, max_restarts: int = 0) -> dict[str, str]:
    """What the ranks find in their environment beside the caller's own.

    Ranks that may be started again meet in a store of their own each time: in that of torch
    elastic they would find the addresses of those before them, and a node that comes back the
    first round's store.
    """
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
    if max_restarts:
        changes[SEPARATE_STORES] = "1"
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


def planned_environment(
    plan: Plan,
    caller: Mapping[str, str],
    *,
    network: Mapping[str, str] | None = None,
    max_restarts: int = 0,
) -> dict[str, str]:
    """What every process of a plan's run finds here; beside it, what its nodes meet over."""
    changes = environment_changes(plan, cores=num_cores(), max_restarts=max_restarts)
    return merged_environment(caller, {**changes, **(network or {})})


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


PORT = 29500
"""PyTorch's own default of a rendezvous."""
