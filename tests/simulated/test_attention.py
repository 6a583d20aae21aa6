"""The attention that PyTorch 2.13 chooses by compute capability, and what a launch leaves of it."""

from functools import cache
from itertools import accumulate
from typing import Any

import pytest

from planner.base.units import ALLOCATOR_BLOCK_BYTES, FP32_BYTES
from planner.hardware.cards import load_gpu
from planner.tape.attention_kernels import fused_attention, has_fused_kernel, math_attention
from planner.tape.attention_workspaces import HeadShape
from planner.tape.tape import Tape
from planner.tape.tensors import Parameter
from planner.workload.workload import Batch
from tests.simulated.conftest import facts

FLASH = ["FLASH_ATTENTION", "EFFICIENT_ATTENTION"]
"""Causal, and with a mask."""
CUDNN = ["CUDNN_ATTENTION", "CUDNN_ATTENTION"]
CHOSEN = {
    "t4": (["MATH", "MATH"], ["EFFICIENT_ATTENTION", "EFFICIENT_ATTENTION"]),
    "a100-sxm-80gb": (FLASH, FLASH),
    "rtx-4090": (FLASH, FLASH),
    "h100": (CUDNN, CUDNN),
    "b200": (CUDNN, CUDNN),
    "rtx-5090": (FLASH, FLASH),
}
"""In bf16 and in fp16, by default."""


@cache
def attention(card: str) -> Any:
    """What PyTorch does on this card, with blocks that are as long as what is asked for."""
    return facts(card, "child_attention", PYTORCH_ALLOC_CONF="expandable_segments:True")


@pytest.mark.parametrize("card", CHOSEN)
def test_no_run_takes_an_attention_whose_memory_is_not_known(card: str) -> None:
    seen = attention(card)
    bf16, fp16 = CHOSEN[card]
    assert seen["default"] == {"bf16": bf16, "fp16": fp16}
    pinned = {name: FLASH if kinds == CUDNN else kinds for name, kinds in seen["default"].items()}
    assert seen["pinned"] == pinned


@pytest.mark.parametrize("card", CHOSEN)
def test_the_plan_knows_where_no_fused_kernel_takes_the_operands(card: str) -> None:
    batch = Batch(2, 1024, compute_capability=load_gpu(card).compute_capability)
    predicted = {
        name: [
            has_fused_kernel(batch=batch, width=width, fp16=name == "fp16", grouped=grouped)
            for grouped in (False, True)
        ]
        for name, width in (("bf16", 2), ("fp16", 2), ("fp32", FP32_BYTES))
    }
    seen = attention(card)["unmasked"].items()
    assert predicted == {name: [each != "MATH" for each in kinds] for name, kinds in seen}


@pytest.mark.parametrize("card", CHOSEN)
def test_gradients_under_a_mask_take_what_the_tape_says(card: str) -> None:
    """Beyond what is given; tiles of gradients depend on the card and on the width of a head."""
    for width, counted in attention(card)["under_a_mask"].items():
        for head, taken in counted.items():
            shape = HeadShape(2, 1000, 3, 3, int(head))
            tape, size = Tape(sink="keep", fp16=True), shape.output_elements
            query, key, value = (Parameter(size, int(width), trains=True) for _ in range(3))
            mask = tape.new(2 * 1000**2, int(width), "mask")
            output = fused_attention(
                *(tape, query, key, value, mask),
                shape=shape,
                device="cuda",
                capability=load_gpu(card).compute_capability,
            )
            turn, gradient = len(tape.log), tape.new(size, int(width), "gradient")
            tape.backward(output, gradient)
            levels = list(accumulate(num_bytes for num_bytes, *_ in tape.log))
            assert taken == max(levels[turn:]) - levels[turn], (width, head)


def test_whole_scores_take_what_the_tape_says() -> None:
    """On a card without flash attention; which rows are masked out is not on the tape."""
    shape = HeadShape(batch=2, length=512, heads=8, key_value_heads=4, head_dim=128)
    tape, size = Tape(sink="keep", fp16=True), shape.output_elements
    given = [Parameter(elements, 2, trains=True) for elements in (size, size // 2, size // 2)]
    output = math_attention(tape, *given, shape=shape, device="cuda")
    turn, gradient = len(tape.log), tape.new(size, 2, "gradient")
    tape.backward(output, gradient)
    levels = list(accumulate(num_bytes for num_bytes, *_ in tape.log))
    assert attention("t4")["whole_scores"] == {
        "forward": max(levels[:turn]) + shape.query_rows + ALLOCATOR_BLOCK_BYTES,
        "saved": levels[turn - 1],
        "backward": max(levels[turn:]) - 2 * size,
    }
