"""A finished run as a measured one, in the format of benchmarks/results.

``benchmarks.measure.results`` reads it and puts the planner's current prediction for the same
settings beside what was measured.
"""

import json
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

from msgspec import structs, to_builtins

from launcher.run.run_directory import RunDirectory
from launcher.storage.hub_names import names_a_folder
from launcher.storage.json_files import read_json, write_json
from planner.base.strict_yaml import read_spec
from planner.base.text_files import read_text
from planner.hardware.nvml import read_nvml
from planner.plan.schema import Plan

KEPT_VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "OMP_NUM_THREADS")
"""Environment variables that are recorded, because they change memory or time."""


def write_record(run: RunDirectory) -> Path:
    """Write a finished run's record in its directory and return the path.

    That is ``measured/<model>--<method>--<batch>--<gpu>x<n>--<date>.json``.
    """
    plan = read_spec(Plan, run.plan)
    report, environment = read_json(run.report), read_json(run.environment)
    metrics = [json.loads(line) for line in read_text(run.metrics).splitlines()]
    today = time.strftime("%Y-%m-%d")
    document = {
        "run": {
            "benchmark": "launch",
            "row": row_of(plan, report),
            "steps": report["training"]["num_steps"],
            "memory_limit_bytes": None,
            "plan": to_builtins(public(plan)),
        },
        "predicted": {"allocated": plan.prediction.peak_allocated_bytes},
        "measured": measured_of(report, metrics),
        "environment": environment_of(plan, environment) | {"date": today},
    }
    path = run.path / "measured" / f"{file_name(plan, document['run'])}--{today}.json"
    path.parent.mkdir(exist_ok=True)
    write_json(path, document)
    return path


def row_of(plan: Plan, report: dict[str, Any]) -> dict[str, Any]:
    """Return the settings by which benchmarks/measure names a run.

    The sequence length is that of the longest batch, because the memory was measured with it.
    """
    longest = max(rank["longest_batch_tokens"] for rank in report["measured"]["ranks"])
    return {
        "model": plan.model.name,
        "num_layers": None,
        "method": plan.method,
        "micro_batch_size": plan.batch.micro_batch_size,
        "gradient_accumulation_steps": plan.batch.gradient_accumulation_steps,
        "sequence_length": longest,
        "activation_checkpointing": plan.activation_checkpointing,
        "loss": plan.loss,
        "attention": plan.attention,
        "optimizer": plan.optimizer.name,
        "strategy": plan.parallel.strategy,
        "offload": plan.parallel.offload,
        "world_size": plan.parallel.world_size,
        "packing": plan.batch.packing,
        "num_nodes": plan.parallel.num_nodes,
        "copies": plan.parallel.copies,
        "sequence_parallel_size": plan.parallel.sequence_parallel_size,
    }


def measured_of(report: dict[str, Any], metrics: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the measured memory, in bytes, and step times, in seconds without the first."""
    measured, ranks = report["measured"], report["measured"]["ranks"]
    used = [rank["device_used_bytes"] for rank in ranks if rank["device_used_bytes"] is not None]
    times = [row["step_time_s"] for row in metrics[1:] if "step_time_s" in row]
    return {
        "status": "ok",
        "reason": None,
        "failed_in": None,
        "peak_allocated_bytes": measured["peak_allocated_bytes"],
        "peak_reserved_bytes": measured["peak_reserved_bytes"],
        "device_used_bytes": max(used, default=None),
        "peak_resident_bytes": measured["peak_resident_bytes"],
        "resident_before_bytes": max(rank["resident_before_model_bytes"] for rank in ranks),
        "steps": report["training"]["num_steps"],
        "step_time_s": {"median": statistics.median(times), "least": min(times), "most": max(times)}
        if times
        else None,
        "tokens_per_second": measured["tokens_per_second"],
    }


def environment_of(plan: Plan, environment: dict[str, Any]) -> dict[str, Any]:
    """Return the device, its driver and all versions, without anything that names the machine."""
    machine, variables = read_nvml(), environment["variables"]
    return {
        "device": {
            "name": plan.hardware.device_name,
            "capacity_bytes": plan.hardware.capacity_bytes,
            "driver": machine.driver_version,
            "driver_cuda": machine.cuda_version,
        },
        "python": environment["python"],
        "packages": environment["packages"],
        "hardware": environment["hardware"],
        "variables": {name: variables[name] for name in variables if name in KEPT_VARIABLES},
        "commit": source_commit(),
    }


def public(plan: Plan) -> Plan:
    """Return the plan without paths of this machine, and without the names of its data."""
    source = plan.model.source
    name = Path(source).name if names_a_folder(source) or Path(source).is_dir() else source
    return structs.replace(
        plan,
        model=structs.replace(plan.model, source=name),
        data=structs.replace(plan.data, source=None, sources=()),
        output=structs.replace(plan.output, directory="."),
    )


def file_name(plan: Plan, run: dict[str, Any]) -> str:
    """Return the part of a record's name before its date."""
    row = run["row"]
    batch = f"{row['micro_batch_size']}x{row['sequence_length']}"
    card = f"{plan.hardware.gpu}x{plan.parallel.world_size}"
    return f"{plan.model.name}--{plan.method}--{batch}--{card}"


def source_commit() -> str | None:
    """Return the commit of this checkout; None for a copy without its history."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
        )
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
