"""Where a run happened: versions, hardware, and settings of a fixed list without secrets."""

import os
import platform
import sys
from typing import Any

import torch

from launcher.run.versions import package_versions, python_version

VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "DS_ACCELERATOR",
    "GLOO_SOCKET_IFNAME",
    "HF_HUB_DISABLE_TELEMETRY",
    "HF_HUB_OFFLINE",
    "NCCL_IB_DISABLE",
    "NCCL_P2P_DISABLE",
    "NCCL_SOCKET_IFNAME",
    "OMP_NUM_THREADS",
    "PYTORCH_ALLOC_CONF",
    "PYTORCH_CUDA_ALLOC_CONF",
    "TOKENIZERS_PARALLELISM",
)


def describe_environment() -> dict[str, Any]:
    """Return the content of ``environment.json``; sizes in bytes."""
    return {
        "python": python_version(),
        "platform": platform.platform(),
        "argv": sys.argv,
        "packages": package_versions(),
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "hardware": {
            "cores": len(os.sched_getaffinity(0)),
            "ram_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            "cuda": torch.version.cuda,
            "gpus": [_describe_gpu(index) for index in range(torch.cuda.device_count())],
        },
    }


def _describe_gpu(index: int) -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(index)
    return {
        "name": properties.name,
        "capacity_bytes": properties.total_memory,
        "compute_capability": f"{properties.major}.{properties.minor}",
    }
