"""Bytes that updates of torchao's optimizers allocate on the first simulated card, by shape: in the
first step and in a later one, beside the states; in fp32 alone where the card has no bf16."""

import json
import sys
from typing import Any

import torch
from msgspec import structs

from launcher.training.optimizer import build_optimizer
from planner.recipes.load_recipe import load_recipe

FLOATS = (torch.float32, torch.bfloat16)
CASES = [
    *((shape, dtype) for shape in ((512, 512), (16, 256), (1000, 100)) for dtype in FLOATS),
    *((shape, torch.float32) for shape in ((64, 64), (128, 40), (2048, 16), (8, 64, 48))),
    *((shape, torch.bfloat16) for shape in ((4096,), (1, 4096), (2, 64, 256), (4, 1, 4096))),
]


def made(optimizer: Any) -> int:
    """Bytes at the largest moment of a step above what is there after it."""
    torch.cuda.reset_peak_memory_stats()
    optimizer.step()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - torch.cuda.memory_allocated()


def updates(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> tuple[int, int, int]:
    """Bytes of the states, and what the first update makes beside them, and the third."""
    module = torch.nn.Module()
    module.weight = torch.nn.Parameter(torch.ones(shape, dtype=dtype, device="cuda"))
    module.weight.grad = torch.ones_like(module.weight)
    optimizer = build_optimizer(
        structs.replace(load_recipe("full").optimizer, name=name, weight_decay=0.01), module
    )
    before = torch.cuda.memory_allocated()
    first = made(optimizer)
    states = torch.cuda.memory_allocated() - before
    made(optimizer)
    return states, first, made(optimizer)


if __name__ == "__main__":
    (optimizer_name,) = sys.argv[1:]
    print(
        json.dumps(
            [
                [shape, dtype.itemsize, *updates(optimizer_name, shape, dtype)]
                for shape, dtype in CASES
                if dtype is torch.float32 or torch.cuda.is_bf16_supported(including_emulation=False)
            ]
        )
    )
