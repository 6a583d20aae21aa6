"""Measurements and records of runs for the tests, with round figures."""

from typing import Any

from msgspec import convert

from planner.hardware.machine_readings import OwnRun
from planner.hardware.measured.measurement import Measurement


def curve(rate: float) -> list[dict[str, float]]:
    """One rate at every size."""
    return [{"size": 1.0, "per_s": rate}]


def _width(products: float) -> dict[str, Any]:
    names = ("forward", "backward", "masked_forward", "masked_backward")
    attention = {name: curve(products / 2) for name in names}
    thin = curve(1e10)
    wide = curve(products)
    return {
        "wide": wide,
        "thin": thin,
        "wide_gradient": wide,
        "thin_gradient": thin,
        "attention": attention,
    }


def measurement(**changes: Any) -> Measurement:
    """A processor of two cores."""
    content: dict[str, Any] = {
        "measured_on": "2026-11-29",
        "device": "cpu",
        "device_name": "A processor",
        "ranks": 1,
        "cores": 2,
        "torch": "2.13.0",
        "kernels": {
            "bits_16": _width(1e12),
            "bits_32": _width(2e11),
            "moved": curve(1e10),
            "fresh_bytes_per_s": 2e9,
            "random": curve(2e8),
            "exponential": curve(1e9),
            "updated": curve(1e10),
            "dequantized": curve(5e9),
            "host_s_per_kernel": 2e-5,
        },
        "host": {"memory_bytes_per_s": 1.5e10, "adam_s_per_parameter": 1.6e-9},
    }
    return convert({**content, **changes}, Measurement)


def own_run(ratio: float, **changes: Any) -> OwnRun:
    """A run of LoRA on that processor whose steps took ``ratio`` of the prediction."""
    content: dict[str, Any] = {
        "recorded_on": "2026-11-29",
        "device_name": "A processor",
        "torch": "2.13.0",
        "rates": "2026-11-29",
        "model_type": "llama",
        "num_params": 134_515_008,
        "method": "lora",
        "strategy": "single",
        "sharded": False,
        "world_size": 1,
        "micro_batch_size": 4,
        "tokens": 256,
        "steps": 4,
        "predicted_step_s": 2.0,
        "measured_step_s": 2.0 * ratio,
        "predicted_bytes": 10**9,
        "measured_bytes": None,
    }
    return convert({**content, **changes}, OwnRun)
