"""The ``--json`` document: the plan, its prediction in full, and the alternatives."""

from typing import Any

from msgspec import structs, to_builtins

from planner.base.phrases import Reason
from planner.decision.alternatives import Alternative
from planner.decision.choose import Decision
from planner.hardware.cluster import Cluster
from planner.hardware.gpu_subsets import better_subset
from planner.hardware.machine import Selection, nvlink_bytes_per_s, selection
from planner.hardware.machine_readings import PairReading
from planner.plan.schema import Plan
from planner.plan.vocabulary import SCHEMA_VERSION
from planner.report.data_rows import data_document, run_time_s
from planner.report.speed_rows import speed_document
from planner.search.candidate import Candidate
from planner.search.candidate_between_steps import between_steps


def document(decision: Decision, plan: Plan) -> dict[str, Any]:
    """Return everything the report shows, as plain data; bytes are integers."""
    return {
        "schema_version": SCHEMA_VERSION,
        "plan": to_builtins(plan),
        "prediction": _prediction(decision),
        "model": {
            "num_params": plan.model.num_params,
            "trainable_params": plan.model.trainable_params,
        },
        "data": data_document(decision.chosen, decision.request.data, decision.packed),
        "hardware": _hardware(decision.request.cluster),
        "machine": machine_document(decision.request.cluster),
        "why": _reason(decision.why),
        "tight": decision.tight,
        "alternatives": [_alternative(each) for each in decision.alternatives],
        "rejected": [
            {**_reason(reason), "candidates": number}
            for reason, number in decision.rejected.items()
        ],
        "improvements": [structs.asdict(each) for each in decision.improvements],
        "richer_method": decision.richer,
        "what_if": to_builtins(decision.what_if),
    }


def _prediction(decision: Decision) -> dict[str, Any]:
    chosen, memory = decision.chosen, decision.chosen.memory
    return {
        "per_gpu": {
            "phases": chosen.footprint.phases,
            "peak_phase": chosen.footprint.peak_phase,
            "peak_allocated_bytes": memory.peak_allocated_bytes,
            "peak_reserved_bytes": chosen.expected.reserved_bytes,
            "context_bytes": memory.context_bytes,
            "device_used_bytes": chosen.expected.device_used_bytes,
            "low_bytes": memory.low_bytes,
            "high_bytes": memory.high_bytes,
            "budget_bytes": decision.request.budget_bytes,
            "capacity_bytes": chosen.cluster.accelerator.capacity_bytes,
            "between_steps": between_steps(chosen)._asdict(),
        },
        "host_ram_bytes": chosen.host.node_bytes,
        "disk_bytes": chosen.disk_bytes,
        "checkpoint_bytes": chosen.checkpoint_bytes,
        "step_time_s": chosen.step_time_s,
        "tokens_per_second": chosen.tokens_per_second,
        "run_time_s": run_time_s(chosen, decision.request.data),
        "speed": speed_document(chosen, decision.request.price_per_gpu_hour),
    }


def _hardware(cluster: Cluster) -> dict[str, Any]:
    accelerator = cluster.accelerator
    return {
        "device": cluster.device,
        "gpu": accelerator.label,
        "device_name": accelerator.device_name,
        "capacity_bytes": accelerator.capacity_bytes,
        "free_bytes": accelerator.free_bytes,
        "gpus_per_node": cluster.gpus_per_node,
        "num_nodes": cluster.num_nodes,
        "holders": [to_builtins(holder) for holder in accelerator.holders],
        "power_limit_watts": accelerator.power_limit_watts,
        "link": cluster.link,
        "link_bytes_per_s": cluster.link_bytes_per_s,
        "network": cluster.network,
        "host_ram_bytes": cluster.host_ram_bytes,
        "cores": cluster.cores,
        "driver_version": cluster.driver_version,
        "cuda_version": cluster.cuda_version,
        "notes": list(cluster.notes),
    }


def _pair(pair: PairReading, chosen: Selection) -> dict[str, Any]:
    """Return one pair's rate in one direction, by the slower end; PCIe without NVLink."""
    ends = [each for each in chosen.gpus if each.device.index in (pair.one, pair.other)]
    rates = [
        nvlink_bytes_per_s(end, pair.nvlinks) if pair.nvlinks else end.pcie_bytes_per_s
        for end in ends
    ]
    known = [rate for rate in rates if rate is not None]
    slowest = min(known) if known and len(known) == len(rates) else None
    return {"one": pair.one, "other": pair.other, "bytes_per_s": slowest}


def machine_document(cluster: Cluster) -> dict[str, Any] | None:
    """Return all that was read of the machine and what follows; None for a card by name."""
    machine = cluster.machine
    if machine is None:
        return None
    chosen = selection(machine)
    subset = better_subset(chosen.gpus)
    return {
        **to_builtins(machine),
        "visible": [{"index": each.index, "uuid": each.uuid} for each in chosen.shown],
        "better_subset": list(subset.indices) if subset is not None else None,
        "links": [_pair(pair, chosen) for pair in machine.nvml.pairs],
        "bf16": cluster.accelerator.supports_bf16,
        "flash_attention": cluster.device == "cuda" and cluster.accelerator.supports_bf16,
        "notes": list(cluster.notes),
    }


def _alternative(alternative: Alternative) -> dict[str, Any]:
    candidate: Candidate = alternative.candidate
    return {
        "method": candidate.method,
        "strategy": candidate.layout.strategy,
        "copies": candidate.layout.copies,
        "sequence_parallel_size": candidate.layout.sequence_ranks,
        "micro_batch_size": candidate.layout.micro_batch_size,
        "activation_checkpointing": candidate.layout.activation_checkpointing,
        "checkpoint_every": candidate.layout.checkpoint_every,
        "attention": candidate.workload.attention,
        "loss": candidate.workload.loss,
        "fits": alternative.fits,
        "peak_allocated_bytes": candidate.memory.peak_allocated_bytes,
        "tokens_per_second": candidate.tokens_per_second,
        "reason": _reason(alternative.reason),
    }


def _reason(reason: Reason) -> dict[str, str]:
    return {"code": reason.code, "text": str(reason)}
