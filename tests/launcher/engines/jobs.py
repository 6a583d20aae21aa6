"""Jobs for the engines: two nodes of eight GPUs, and less."""

from pathlib import Path
from typing import Any

from launcher.engines.job import Job
from planner.plan.schema import Plan
from tests.launcher.plans import nodes, plan

H100 = {"hardware__device": "cuda", "hardware__gpu": "h100-sxm-80gb"}


def sixteen_gpus(**changes: Any) -> Plan:
    return plan(**nodes(2, 8, **H100), **changes)


def job(which: Plan, /, **settings: str) -> Job:
    return Job(
        plan=which,
        directory=Path("/home/me/runs/tiny lora"),
        python="/opt/venv/bin/python",
        working_directory=Path("/home/me"),
        settings=settings,
    )
