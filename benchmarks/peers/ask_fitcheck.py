"""Run by the interpreter that has fitcheck: settings on stdin, its estimates on stdout."""

import json
import sys
from typing import Any

from fitcheck import GpuSpec, TrainingConfig, estimate, fetch_model_config, get_gpu
from fitcheck.gpu_db import gpu_key_for
from fitcheck.overhead_db import DEFAULT_OVERHEAD_PROFILE, OverheadProfile, get_overhead_profile

MIB = 2**20


def profile(training: TrainingConfig, gpu: GpuSpec) -> OverheadProfile:
    """Return the overhead that ``estimate`` applies; the fitted one needs checkpointing."""
    found = get_overhead_profile(gpu_key_for(gpu), training.flash_attn, training.quantization)
    fitted_only = found.uses_hump_form and not training.grad_checkpoint
    return DEFAULT_OVERHEAD_PROFILE if fitted_only else found


def ask(setting: dict[str, Any]) -> dict[str, int]:
    training = TrainingConfig(**setting["training"])
    gpu = get_gpu(setting["gpu"], setting["vram_mib"])
    report = estimate(fetch_model_config(setting["model"]), training, gpu)
    context_mib = profile(training, gpu).base_context_mib
    return {
        "allocated": round((report.total_mib - report.overhead_mib) * MIB),
        "reserved": round((report.total_mib - context_mib) * MIB),
        "device_used": round(report.total_mib * MIB),
    }


def answer(setting: dict[str, Any]) -> dict[str, object]:
    try:
        return {"predicted": ask(setting)}
    except ValueError as error:
        return {"refused": str(error)}


if __name__ == "__main__":
    json.dump([answer(setting) for setting in json.load(sys.stdin)], sys.stdout)
