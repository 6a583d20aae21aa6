"""A plan for machines that do not have this one's disk."""

from collections.abc import Mapping
from pathlib import Path

from msgspec import structs

from launcher.engines.job import Job
from planner.base.units import GIB, ceil_div
from planner.plan.schema import Plan

HOME = "/tuneplan"
"""Where plan, inputs and run directory are mounted on such a machine."""
RUNS = f"{HOME}/runs"
DOWNLOADED_BYTES_PER_PARAM = 2
"""Hubs keep checkpoints in 16 bit."""


def inputs_here(job: Job) -> dict[str, Path]:
    """What the plan reads of this machine's disk, by the plan's own name for it."""
    plan = job.plan
    named = [source.source for source in plan.data.every_source] + [plan.model.source]
    places = {name: job.working_directory / Path(name).expanduser() for name in named}
    return {name: path.resolve() for name, path in places.items() if path.exists()}


def plan_away(plan: Plan, inputs: Mapping[str, str], directory: str) -> Plan:
    """With the run directory there, and inputs by the names that they have there."""
    data = structs.replace(
        plan.data,
        source=inputs.get(plan.data.source or "", plan.data.source),
        sources=tuple(
            structs.replace(source, source=inputs.get(source.source, source.source))
            for source in plan.data.sources
        ),
    )
    model_source = inputs.get(plan.model.source, plan.model.source)
    return structs.replace(
        plan,
        data=data,
        model=structs.replace(plan.model, source=model_source),
        output=structs.replace(plan.output, directory=directory),
    )


def needed_disk_gib(plan: Plan) -> int:
    """The run's own files and the model as it is downloaded, rounded up."""
    model_bytes = plan.model.num_params * DOWNLOADED_BYTES_PER_PARAM
    return ceil_div(plan.prediction.disk_bytes + model_bytes, GIB)


def needed_memory_gib(plan: Plan) -> int:
    """Of a node's host memory, rounded up."""
    return ceil_div(plan.prediction.host_ram_bytes, GIB)
