"""MLPs that run tile by tile over the tokens: each tile is checkpointed, so that only one has its
inner tensors at a time (planner/tape/tiles.py counts them)."""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from launcher.training.text_model import decoder_layers

MLP_NAMES = ("mlp", "feed_forward")
"""Names that decoder layers of transformers 5.23 have for their MLP."""


def tile_mlps(model: Any) -> None:
    """Have the MLP of every decoder layer run on tiles of as many tokens as the hidden size."""
    size = model.config.get_text_config().hidden_size
    for layer in decoder_layers(model):
        mlp = next(getattr(layer, name) for name in MLP_NAMES if hasattr(layer, name))
        mlp.forward = tiled(mlp.forward, size)


def tiled(forward: Callable[[torch.Tensor], torch.Tensor], size: int) -> Callable[..., Any]:
    """Return a forward pass that runs another one on tiles of so many tokens, again in the backward
    pass, and joins their outputs; an input of one tile is not tiled."""

    def run(x: torch.Tensor) -> torch.Tensor:
        tiles = torch.split(x.flatten(0, -2), size)
        if len(tiles) == 1:
            return forward(x)
        outputs = [checkpoint(forward, tile, use_reentrant=False) for tile in tiles]
        return torch.cat(outputs).view(*x.shape[:-1], -1)

    return run
