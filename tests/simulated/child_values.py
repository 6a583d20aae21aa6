"""Computes with small integers on a simulated card, and the same on the CPU."""

import json
from typing import Any

import torch


def computed(device: str) -> dict[str, Any]:
    numbers = torch.arange(10, device=device)
    positions = torch.arange(2048, device=device)[None]
    steps = torch.diff(positions, prepend=positions[:, :1] - 1, dim=-1)
    changed = torch.full((4,), 7, device=device)
    changed[1] = 2
    mask = torch.ones(3, 5, dtype=torch.long, device=device)
    mask[1:, -1] = 0
    tensors = {
        "compared": numbers != 3,
        "selected": numbers[numbers != 3],
        "places": (numbers % 3 == 0).nonzero(),
        "packed": (steps != 1).cumsum(-1)[:, -1],
        "joined": torch.cat([numbers, numbers]).sum(),
        "mean": numbers.float().mean(),
        "finite": torch.stack([numbers.sum().float(), numbers.max().float()]).isfinite(),
        "cast": numbers.to(torch.int32),
        "spread": numbers[None].expand(2, 10).reshape(-1)[12],
        "changed": changed,
        "largest": changed.max(),
        "where": torch.where(changed > 3, changed, 0),
        "counts": torch.bincount(torch.tensor([0, 1, 1, 3], device=device), minlength=5),
        "sorted": torch.tensor([3, 1, 2], device=device).sort().values,
        "top": torch.tensor([[3, 1, 2]], device=device).topk(2).indices,
        "masked": mask.bool().all(-1),
        "lower": torch.ones(3, 3, dtype=torch.bool, device=device).tril(),
    }
    return {name: tensor.tolist() for name, tensor in tensors.items()}


def unread() -> dict[str, float]:
    """Vectors of floats are not computed: what is asked of them is zero, and not what lay there."""
    torch.full((768,), 0x7FC0, dtype=torch.int16, device="cuda")
    bias = torch.empty(768, dtype=torch.bfloat16, device="cuda")
    large = torch.randn(1 << 16, device="cuda")
    return {
        "maximum": float(large.max()),
        "any_nan": float(large.isnan().any()),
        "norm": float(torch.linalg.vector_norm(bias)),
        "leftovers": float(bias.isnan().any()),
    }


if __name__ == "__main__":
    print(json.dumps({"gpu": computed("cuda"), "cpu": computed("cpu"), "unread": unread()}))
