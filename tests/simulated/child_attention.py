"""Which kernels PyTorch chooses for scaled dot-product attention on the first simulated card, and
what its own attention allocates where it chooses none."""

import json

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from launcher.training.model_building import pin_attention_backends

NAMES = {int(backend.value): name for name, backend in SDPBackend.__members__.items()}
HELD: list[tuple[torch.Tensor, ...]] = []
"""Gradients, which the thread of a backward pass would let go of at any time after it."""

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def operand(heads: int, dtype: torch.dtype, length: int = 1024) -> torch.Tensor:
    return torch.empty(2, heads, length, 128, device="cuda", dtype=dtype, requires_grad=True)


def choice(dtype: torch.dtype, *, masked: bool, key_heads: int = 8) -> str:
    query, key = operand(8, dtype), operand(key_heads, dtype)
    mask = torch.ones(2, 1, 1024, 1024, device="cuda", dtype=torch.bool) if masked else None
    grouped = key_heads < 8
    chosen = torch._fused_sdp_choice(query, key, key, mask, 0.0, not masked, enable_gqa=grouped)
    return NAMES[chosen]


def unmasked() -> dict[str, list[str]]:
    """The choices without a mask: every head with its own keys, and two heads with the same."""
    return {
        name: [choice(dtype, masked=False, key_heads=heads) for heads in (8, 4)]
        for name, dtype in DTYPES.items()
    }


def whole_scores() -> dict[str, int]:
    """Bytes at the largest moments of a causal attention whose heads share keys, above what it is
    given, after a first one that has left cuBLAS's workspaces."""
    peaks = {}
    for _ in range(2):
        given = [operand(heads, torch.float16, 512).transpose(1, 2) for heads in (8, 4, 4)]
        query, key, value = (each.contiguous().transpose(1, 2) for each in given)
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        output = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, enable_gqa=True
        )
        peaks["forward"] = torch.cuda.max_memory_allocated() - before
        peaks["saved"] = torch.cuda.memory_allocated() - before
        gradient = torch.empty_like(output)
        before = torch.cuda.memory_allocated() - peaks["saved"]
        torch.cuda.reset_peak_memory_stats()
        torch.autograd.backward(output, gradient)
        peaks["backward"] = torch.cuda.max_memory_allocated() - before
        del output, gradient, given, query, key, value
    return peaks


def under_a_mask(dtype: torch.dtype, head: int) -> int:
    """Bytes at the largest moment of the gradient of memory-efficient attention, above what it is
    given."""
    shape = (2, 3, 1000, head)
    query, key, value = (
        torch.empty(shape, device="cuda", dtype=dtype, requires_grad=True) for _ in range(3)
    )
    mask = torch.empty(2, 1, 1000, 1008, device="cuda", dtype=dtype)[..., :1000]
    with sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION):
        output = torch.nn.functional.scaled_dot_product_attention(query, key, value, mask)
    gradient = torch.empty_like(output)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    HELD.append(torch.autograd.grad(output, [query, key, value], gradient))
    return torch.cuda.max_memory_allocated() - before


def choices() -> dict[str, list[str]]:
    return {
        name: [choice(dtype, masked=masked) for masked in (False, True)]
        for name, dtype in DTYPES.items()
        if name != "fp32"
    }


if __name__ == "__main__":
    by_default = choices()
    pin_attention_backends()
    # Not last: a process that ends right after a backward pass may end before the pass's thread,
    # which then wants an interpreter that is gone.
    pinned = {
        "whole_scores": whole_scores(),
        "under_a_mask": {
            dtype.itemsize: {head: under_a_mask(dtype, head) for head in (64, 96, 128, 256)}
            for dtype in (torch.float16, torch.float32)
        },
        "pinned": choices(),
        "unmasked": unmasked(),
    }
    print(json.dumps({"default": by_default, **pinned}))
