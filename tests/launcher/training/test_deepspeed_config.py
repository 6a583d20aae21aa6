"""DeepSpeed's configuration, whole, for each stage."""

import json
from pathlib import Path
from typing import Any

import pytest

from launcher.training.deepspeed_config import deepspeed_config
from tests.launcher.golden import assert_golden
from tests.launcher.plans import full, parallel, plan

SIXTEEN_BIT = {"compute": "bf16", "frozen": "bf16", "trainable": "bf16", "master": "fp32"}


@pytest.mark.parametrize("strategy", ["zero1", "zero2", "zero3"])
def test_recorded(strategy: str, tmp_path: Path) -> None:
    config = deepspeed_config(
        plan(
            **full(
                precision=SIXTEEN_BIT,
                parallel=parallel(strategy),
                batch__global_batch_size=8,
            )
        )
    )
    text = json.dumps(config, indent=2) + "\n"
    assert_golden(f"deepspeed-{strategy}.json", text, tmp_path)


@pytest.mark.parametrize("strategy", ["single", "ddp"])
def test_none_without_zero(strategy: str) -> None:
    batch = 4 if strategy == "single" else 8
    assert (
        deepspeed_config(plan(parallel=parallel(strategy), batch__global_batch_size=batch)) is None
    )


def test_offload() -> None:
    """read: deepspeed/runtime/engine.py at 0.19.8, _configure_optimizer: it refuses PyTorch's
    optimizer beside offload unless it is told not to."""
    config = deepspeed_config(
        plan(
            precision=SIXTEEN_BIT,
            parallel=parallel("zero3", offload="all"),
            batch__global_batch_size=8,
        )
    )
    assert config is not None
    assert config["zero_force_ds_cpu_optimizer"] is False
    pinned = {"device": "cpu", "pin_memory": True}
    assert config["zero_optimization"]["offload_optimizer"] == pinned
    assert config["zero_optimization"]["offload_param"] == pinned


def test_fp32_needs_no_mixed_precision() -> None:
    precision = {"compute": "fp32", "frozen": "fp32", "trainable": "fp32", "master": None}
    config = deepspeed_config(
        plan(precision=precision, parallel=parallel("zero2"), batch__global_batch_size=8)
    )
    assert config is not None
    assert {"bf16", "fp16"}.isdisjoint(config)


@pytest.mark.parametrize("strategy", ["zero1", "zero2", "zero3"])
def test_nothing_is_left_to_auto(strategy: str) -> None:
    config = deepspeed_config(
        plan(precision=SIXTEEN_BIT, parallel=parallel(strategy), batch__global_batch_size=8)
    )
    assert "auto" not in list(_leaves(config))


def _leaves(value: Any) -> Any:
    if isinstance(value, dict):
        for inner in value.values():
            yield from _leaves(inner)
    else:
        yield value
