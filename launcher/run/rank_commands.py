"""The commands that run a plan, and their environment; nothing is started here."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from launcher.compat.torch_text import SEPARATE_STORES, rendezvous_options
from launcher.run.run_directory import RunDirectory
from planner.base.python_children import SAFE_PATH, child_environment, module_command
from planner.plan.schema import Plan
from planner.plan.vocabulary import SHARES_SAMPLES

JOIN_SECONDS = 3600
"""Seconds for all nodes to meet: the first waits for the last, and for a lost one to return."""

PORT = 29500
"""PyTorch's default port of a rendezvous."""

ALLOCATOR_VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
"""Name since PyTorch 2.9, and the older one; 2.9 and later read either."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendezvous:
    """The rendezvous of the ranks of several nodes, as one of the nodes joins it."""

    endpoint: str
    id: str
    num_nodes: int
    address: str
    """Address of this node, which the other nodes are given."""
    hosts_store: bool
    """Whether the endpoint is an address of this node, which then serves the common store."""
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
    """Return the command that runs this node's ranks, as an argument list for no shell.

    ``checkpoint`` is the one to resume from, which was found whole; ``rendezvous`` is None for a
    run on one node.
    """
    return [
        *elastic_command(rendezvous, python=python, ranks=plan.parallel.gpus_per_node),
        *(["--max-restarts", str(max_restarts)] if max_restarts else []),
        *("-m", "launcher.training.rank", str(run.path)),
        *([] if run.node is None else ["--address", run.node]),
        *([] if checkpoint is None else ["--verified", str(checkpoint)]),
    ]


def elastic_command(rendezvous: Rendezvous | None, *, python: str, ranks: int) -> list[str]:
    """Return torch elastic's command, up to the module that its ranks run."""
    torchrun = module_command("torch.distributed.run", python=python)
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
    prepare = module_command("launcher.lifecycle.preparation_process", python=python)
    return [*prepare, str(run.path), *node, *shown]


def environment_changes(plan: Plan, *, cores: int, max_restarts: int = 0) -> dict[str, str]:
    """Return the environment variables that a plan's processes need, beside the caller's.

    ``cores`` are those that this process may use. Ranks that may be restarted meet in a new store
    at every start: in torch elastic's store they would find the addresses of the ranks before
    them, and a node that returns would find the store of the first round.
    """
    changes = {
        **SAFE_PATH,
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if plan.hardware.device == "cuda":
        changes["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"
    else:
        changes["DS_ACCELERATOR"] = "cpu"
        changes["OMP_NUM_THREADS"] = str(max(1, cores // plan.parallel.gpus_per_node))
        # Threads that spin while they wait are many times slower where processes share cores.
        changes["OMP_WAIT_POLICY"] = "PASSIVE"
    if max_restarts:
        changes[SEPARATE_STORES] = "1"
    return changes


def merged_environment(caller: Mapping[str, str], changes: Mapping[str, str]) -> dict[str, str]:
    """Return the caller's environment with the changes; variables that the caller set stay.

    Those of other launchers are left out (planner/base/python_children.py).
    """
    merged = child_environment(caller)
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
    """Return the environment of every process of a plan's run on this node.

    ``network`` are variables that name the interface on which the nodes meet.
    """
    changes = environment_changes(plan, cores=num_cores(), max_restarts=max_restarts)
    return merged_environment(caller, {**changes, **(network or {})})


def rank_environment(plan: Plan, merged: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of the ranks, from that of all processes.

    All that ranks read is on disk, so the hub is not asked again. A single rank sees one card:
    transformers' trainer would replicate the model over all that it sees. Ranks that cut layers on
    the CPU see none, or transformers would cut them over cards.
    """
    environment = {**merged, "HF_HUB_OFFLINE": "1"}
    if plan.hardware.device == "cuda" and plan.parallel.world_size == 1:
        visible = merged.get("CUDA_VISIBLE_DEVICES", "0")
        environment["CUDA_VISIBLE_DEVICES"] = visible.split(",")[0]
    if plan.hardware.device == "cpu" and plan.parallel.strategy in SHARES_SAMPLES:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    return environment


def num_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0))
