"""A plan as it is run on machines that do not share this machine's disk."""

from collections.abc import Mapping
from pathlib import Path

from msgspec import structs

from launcher.engines.job import Job
from planner.base.units import GIB, ceil_div
from planner.base.user_folders import expanded
from planner.plan.schema import Plan

HOME = "/tuneplan"
"""Folder in which plan, inputs and run directory are mounted there."""
RUNS = f"{HOME}/runs"
"""Folder of the run directories there."""
DOWNLOADED_BYTES_PER_PARAM = 2
"""Bytes per parameter of a checkpoint on the hub, which is in 16 bit."""


def local_inputs(job: Job) -> dict[str, Path]:
    """Return the inputs that are on this machine's disk, by their names in the plan."""
    plan = job.plan
    names = [source.source for source in plan.data.every_source] + [plan.model.source]
    paths = {name: job.working_directory / expanded(name) for name in names}
    return {name: path.resolve() for name, path in paths.items() if path.exists()}


def remote_plan(plan: Plan, inputs: Mapping[str, str], directory: str) -> Plan:
    """Return the plan with the run directory, and the names of inputs, as they are there."""
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
    """Return the GiB that the run's files and the downloaded model take, rounded up."""
    model_bytes = plan.model.num_params * DOWNLOADED_BYTES_PER_PARAM
    return ceil_div(plan.prediction.disk_bytes + model_bytes, GIB)


def needed_memory_gib(plan: Plan) -> int:
    """Return the GiB of host memory that a node needs, rounded up."""
    return ceil_div(plan.prediction.host_ram_bytes, GIB)
