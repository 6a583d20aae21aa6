"""The attention that PyTorch 2.13 chooses by compute capability, and what a launch leaves of it."""

import pytest

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


@pytest.mark.parametrize("card", CHOSEN)
def test_no_run_takes_an_attention_whose_memory_is_not_known(card: str) -> None:
    seen = facts(card, "child_attention")
    bf16, fp16 = CHOSEN[card]
    assert seen["default"] == {"bf16": bf16, "fp16": fp16}
    pinned = {name: FLASH if kinds == CUDNN else kinds for name, kinds in seen["default"].items()}
    assert seen["pinned"] == pinned
