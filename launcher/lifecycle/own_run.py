"""A finished run as a record for the next plan on this machine: predicted beside measured.

The prediction is made anew for what the run did: its typical step has rows of the mean length of
its batches, its peak is that of the longest batch. A plan's own prediction is for full rows.
"""

import os
import time

from msgspec import structs

from launcher.run.run_directory import RunDirectory
from launcher.storage.json_files import read_json
from planner.base.errors import UserError, reason_of
from planner.base.phrases import Joined, Phrase
from planner.base.strict_yaml import read_spec
from planner.base.units import round_up
from planner.hardware.cluster import Cluster
from planner.hardware.detect import detect, read_cpu
from planner.hardware.linux_host import read_torch
from planner.hardware.machine_readings import OwnRun
from planner.hardware.measured.data_folder import VARIABLE, data_folder
from planner.hardware.measured.own_runs import keep_run, rates_source
from planner.plan.schema import Plan
from planner.search.repredict import on_machine


def record_own_run(run: RunDirectory) -> list[str]:
    """Keep a record of a finished run, and return a line that says so; none if nothing is kept.

    A run that cannot be predicted anew, or a folder that cannot be written, costs the record and
    never the run.
    """
    if data_folder() is None:
        return []
    try:
        record = own_run(run)
        file = keep_run(record)
    except (UserError, OSError) as error:
        return [
            Phrase("note: this run is not kept for later plans: {error}", error=reason_of(error))
        ]
    return [
        Phrase(
            "{figures}; kept for later plans in {file} ({variable}=none keeps nothing)",
            figures=_figures(record),
            file=file,
            variable=VARIABLE,
        )
    ]


def own_run(run: RunDirectory) -> OwnRun:
    """Return the record of a finished run; raise ``UserError`` if it cannot be predicted anew."""
    plan, report = read_spec(Plan, run.plan), read_json(run.report)
    measured, cluster = report["measured"], _cluster(plan)
    longest = max(rank["longest_batch_tokens"] for rank in measured["ranks"])
    typical = _with_rows(plan, cluster, measured["mean_row_tokens"]).prediction
    largest = _with_rows(plan, cluster, longest).prediction
    torch = read_torch()
    return OwnRun(
        recorded_on=time.strftime("%Y-%m-%d"),
        device_name=cluster.accelerator.device_name,
        torch="" if torch is None else torch.version,
        rates=rates_source(cluster),
        model_type=plan.model.model_type,
        num_params=plan.model.num_params,
        method=plan.method,
        strategy=plan.parallel.strategy,
        sharded=plan.parallel.is_sharded,
        world_size=plan.parallel.world_size,
        micro_batch_size=plan.batch.micro_batch_size,
        tokens=measured["mean_row_tokens"],
        steps=report["training"]["num_steps"],
        probe=run.probe.exists(),
        predicted_step_s=typical.step_time_s,
        measured_step_s=measured["step_time_s"],
        predicted_bytes=largest.peak_allocated_bytes,
        measured_bytes=measured["peak_allocated_bytes"],
    )


def _cluster(plan: Plan) -> Cluster:
    """Return this machine with as many devices as the plan takes of it."""
    found = read_cpu() if plan.hardware.device == "cpu" else detect(os.environ)
    return structs.replace(found, gpus_per_node=plan.parallel.gpus_per_node)


def _with_rows(plan: Plan, cluster: Cluster, num_tokens: int) -> Plan:
    length = round_up(num_tokens, plan.parallel.sequence_parallel_size)
    batch = structs.replace(plan.batch, sequence_length=length)
    return on_machine(structs.replace(plan, batch=batch), cluster)


def _figures(record: OwnRun) -> str:
    parts = []
    if record.predicted_step_s is not None:
        parts.append(
            Phrase(
                "{ratio:.2f} of the time",
                ratio=record.measured_step_s / record.predicted_step_s,
            )
        )
    if record.measured_bytes is not None:
        parts.append(
            Phrase(
                "{ratio:.2f} of the memory",
                ratio=record.measured_bytes / record.predicted_bytes,
            )
        )
    return (
        Phrase("a step took {parts} predicted", parts=Joined(" and ", parts))
        if parts
        else Phrase("a step was timed")
    )
