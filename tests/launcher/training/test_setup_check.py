"""Every difference between plan and live setup is named."""

from dataclasses import replace
from typing import Any

import pytest

from launcher.training.setup_check import (
    PlanMismatchError,
    Setup,
    mismatches,
    num_elements,
    require_as_planned,
)
from tests.launcher.plans import full, parallel, plan

LORA = Setup(
    num_params=107_072,
    trainable_params=8_192,
    frozen_dtypes=("bfloat16",),
    trainable_dtypes=("float32",),
    engine="torch",
    engine_class="PeftModelForCausalLM",
    world_size=1,
    copies=1,
    sequence_ranks=1,
    zero_stage=0,
    optimizer_class="AdamW",
    zero_optimizer_class=None,
    autocast_dtype="bfloat16",
    scales_gradients=False,
)
ZERO2 = replace(
    LORA,
    frozen_dtypes=(),
    trainable_params=107_072,
    trainable_dtypes=("bfloat16",),
    engine="deepspeed",
    engine_class="DeepSpeedEngine",
    world_size=2,
    zero_stage=2,
    zero_optimizer_class="DeepSpeedZeroOptimizer",
    autocast_dtype=None,
)
ZERO2_PLAN = plan(
    **full(
        precision={"compute": "bf16", "frozen": "bf16", "trainable": "bf16", "master": "fp32"},
        parallel=parallel("zero2"),
        batch__global_batch_size=8,
    )
)


def test_as_planned() -> None:
    require_as_planned(plan(), LORA)
    require_as_planned(ZERO2_PLAN, ZERO2)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({"num_params": 5}, "parameters: planned 107072, found 5"),
        ({"trainable_params": 5}, "trainable parameters: planned 8192, found 5"),
        (
            {"trainable_dtypes": ("bfloat16",)},
            "trainable precision: planned ('float32',), found ('bfloat16',)",
        ),
        (
            {"frozen_dtypes": ("bfloat16", "float32")},
            "frozen precision: planned ('bfloat16',), found ('bfloat16', 'float32')",
        ),
        ({"optimizer_class": "SGD"}, "optimizer: planned AdamW, found SGD"),
        ({"autocast_dtype": None}, "autocast: planned bfloat16, found None"),
        ({"world_size": 2}, "ranks: planned 1, found 2"),
        ({"copies": 2}, "copies of the parameters: planned 1, found 2"),
        ({"scales_gradients": True}, "gradient scaling: planned False, found True"),
    ],
)
def test_a_difference_is_named(found: dict[str, Any], message: str) -> None:
    assert mismatches(plan(), replace(LORA, **found)) == [message]


def test_deepspeed_that_was_skipped_is_seen() -> None:
    skipped = replace(ZERO2, engine="ddp", zero_stage=0, zero_optimizer_class=None)
    with pytest.raises(PlanMismatchError, match="engine: planned deepspeed, found ddp"):
        require_as_planned(ZERO2_PLAN, skipped)


def test_another_zero_optimizer_is_seen() -> None:
    other = replace(ZERO2, zero_optimizer_class="BF16_Optimizer")
    assert mismatches(ZERO2_PLAN, other) == [
        "ZeRO optimizer: planned DeepSpeedZeroOptimizer, found BF16_Optimizer"
    ]


def test_quantized_weights_are_bytes() -> None:
    qlora = plan(method="qlora", quantization={"quant_type": "nf4", "double_quant": True})
    assert mismatches(qlora, replace(LORA, frozen_dtypes=("bfloat16", "uint8"))) == []
    assert mismatches(qlora, LORA) != []


def test_a_parameter_counts_for_what_it_stands_for() -> None:
    torch = pytest.importorskip("torch")
    plain = torch.nn.Parameter(torch.zeros(3, 5))
    assert num_elements(plain) == 15
    plain.ds_numel = 60
    assert num_elements(plain) == 60
