"""Where a run happened: versions, hardware, settings. Names are chosen; no secret is among them."""

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
    found = torch.cuda.get_device_properties(index)
    return {
        "name": found.name,
        "capacity_bytes": found.total_memory,
        "compute_capability": f"{found.major}.{found.minor}",
    }
