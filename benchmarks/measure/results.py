"""Our measured runs, read again: today's predictions beside the measurements."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msgspec import structs, to_builtins

from benchmarks.measure.matrix import Row
from benchmarks.measure.planning import NotPlannableError, Planned, plan_row
from planner.allocator.training_steps import allocator_peak
from planner.base.preset_files import preset_names
from planner.hardware.cards import load_gpu, named_cluster
from planner.hardware.cluster import Cluster
from planner.plan.schema import Plan
from planner.workload.dtypes import numerics

RESULTS = Path(__file__).parents[1] / "results" / "measured"
SAME = (
    "adapter",
    "quantization",
    "precision",
    "checkpoint_every",
    "activation_offloading",
    "tiled_mlp",
)
"""Sections of a plan that memory depends on and that are not part of a row's name."""
OF_THE_MODEL = "zero"
"""Part of the section of ranks that follows from the model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnRun:
    """A run with its bytes by reading; a reading that is predicted in two ways is measured once."""

    row: Row
    card: str
    predicted: dict[str, int]
    measured: dict[str, int]
    predicted_s: float | None
    """Predicted seconds of one optimizer step."""
    measured_s: float | None
    """Measured seconds of one optimizer step, the median of those after the first, which compiles
    and fills caches; None for a run of one step."""


def own_runs(directory: Path = RESULTS) -> Iterator[OwnRun]:
    """Yield every run on a known card that ended well and that the planner can express."""
    for path in sorted(directory.glob("*.json")):
        document = json.loads(path.read_text(encoding="utf-8"))
        row = Row(**document["run"]["row"])
        cluster = _cluster(document, row)
        if cluster is None or document["measured"]["status"] != "ok":
            continue
        try:
            planned = plan_row(row, cluster)
        except NotPlannableError:
            continue
        if not _says_all(planned.plan, document["run"]):
            continue
        yield OwnRun(
            row=row,
            card=cluster.accelerator.label,
            predicted={**planned.predicted_bytes, **_replayed(row, planned)},
            measured={
                "allocated": document["measured"]["peak_allocated_bytes"],
                "reserved": document["measured"]["peak_reserved_bytes"],
                "device_used": document["measured"]["device_used_bytes"],
            },
            predicted_s=planned.candidate.step_time_s,
            measured_s=_median(document["measured"]["step_time_s"]),
        )


def _median(spread: dict[str, float] | None) -> float | None:
    return None if spread is None else spread["median"]


def _says_all(plan: Plan, run: dict[str, Any]) -> bool:
    """Return whether a row's plan of today is the one that was run: a launch may have had adapters
    of another rank, or other layers, which a row cannot say."""
    recorded = run.get("plan")
    if recorded is None or run.get("benchmark") != "launch":
        return True
    today = json.loads(json.dumps(to_builtins(plan)))
    return (
        all(today.get(section) == recorded.get(section) for section in SAME)
        and today["model"]["trainable_params"] == recorded["model"]["trainable_params"]
        and _ranks(today) == _ranks(recorded)
    )


def _ranks(plan: dict[str, Any]) -> dict[str, Any]:
    """Return how a plan's ranks share the work, as data."""
    return {key: value for key, value in plan["parallel"].items() if key != OF_THE_MODEL}


def _cluster(document: dict[str, Any], row: Row) -> Cluster | None:
    """Return the nodes of the card that was measured, by its exact name; None for the CPU."""
    name = document["environment"]["device"]["name"]
    for preset in preset_names("gpus"):
        card = load_gpu(preset)
        if card.device_name == name:
            node = named_cluster(card, row.world_size // row.num_nodes)
            recorded = document["run"].get("plan") or {}
            network = recorded.get("hardware", {}).get("network")
            return structs.replace(node, num_nodes=row.num_nodes, network=network)
    return None


def _replayed(row: Row, planned: Planned) -> dict[str, int]:
    """Return the replay through the allocator's rules, which is written for one device."""
    if row.strategy != "single":
        return {}
    candidate = planned.candidate
    work = candidate.workload
    found = allocator_peak(
        work,
        candidate.layout,
        candidate.worst_batch,
        numerics(method=row.method, compute=work.compute, zero_stage=0),
        expandable_segments=True,
    )
    return {
        "allocated, replayed": found.peak_allocated_bytes,
        "reserved, replayed": found.peak_reserved_bytes,
    }
