"""MLPs that run tile by tile compute what they compute whole, adapters' dropout included."""

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from launcher.training.tiled_mlp import tile_mlps, tiled

CONFIG = LlamaConfig(
    vocab_size=64,
    hidden_size=16,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=2,
)


def loss_and_gradients(model: Any, *, recomputes: bool) -> tuple[Any, list[Any]]:
    if recomputes:
        model.activation_checkpointing_enable({"use_reentrant": False})
    ids = torch.arange(90).view(2, 45) % 64
    loss = model.train()(input_ids=ids, labels=ids).loss
    return loss, list(torch.autograd.grad(loss, list(model.parameters())))


@pytest.mark.parametrize("recomputes", [False, True])
def test_loss_and_gradients_are_those_of_whole_mlps(recomputes: bool) -> None:
    """Of 90 tokens in tiles of 16, the last of which is shorter."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(CONFIG)
    expected, gradients = loss_and_gradients(model, recomputes=False)
    tile_mlps(model)
    found, of_tiles = loss_and_gradients(model, recomputes=recomputes)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(of_tiles, gradients)


def test_a_tile_drops_in_backward_what_it_dropped_in_forward() -> None:
    """An element's gradient is not zero just where its output is not."""
    dropped = tiled(torch.nn.Dropout(0.5), 4)
    x = torch.ones(3, 5, 8, requires_grad=True)
    output = dropped(x)
    output.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, output)
    assert 0 < (output == 0).float().mean() < 1
