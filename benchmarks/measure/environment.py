"""Facts that a run's figures depend on, as far as they are known without the training stack."""

import os
import platform
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from launcher.lifecycle.measured_run import source_commit
from planner.hardware.cluster import Cluster

PACKAGES = ("torch", "transformers", "peft", "trl", "accelerate", "bitsandbytes", "deepspeed")
ROOT = Path(__file__).parents[2]


def environment_of(cluster: Cluster) -> dict[str, Any]:
    """Return the device, its driver, versions and the date, without anything that names the
    machine."""
    return {
        "device": {
            "name": cluster.accelerator.device_name,
            "capacity_bytes": cluster.accelerator.capacity_bytes,
            "in_use_before_bytes": cluster.accelerator.in_use_bytes,
            "driver": cluster.driver_version,
            "driver_cuda": cluster.cuda_version,
        },
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "commit": source_commit(),
        "date": time.strftime("%Y-%m-%d"),
    }


def host_environment(packages: Sequence[str]) -> dict[str, Any]:
    """Return the processor, versions and the date, for a benchmark that measures no device."""
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in packages},
        "date": time.strftime("%Y-%m-%d"),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
