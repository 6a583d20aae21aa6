"""Each rank drops elements of its own parts, and the same ones of what all ranks have."""

from types import SimpleNamespace

import pytest

pytest.importorskip("peft")

import torch
from torch.utils.checkpoint import checkpoint
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS as ATTENTION

from launcher.compat.cut_layers import DropoutOfAPart, drop_heads_by_rank


def test_masks_of_parts_differ_and_those_of_what_all_have_do_not() -> None:
    of_parts, of_all = [], []
    for rank in range(2):
        torch.manual_seed(7)
        of_parts.append(DropoutOfAPart(0.5, rank)(torch.ones(64)))
        of_all.append(torch.nn.Dropout(0.5)(torch.ones(64)))
    assert not torch.equal(*of_parts)
    assert torch.equal(*of_all)


def test_a_layer_that_is_computed_again_drops_the_same() -> None:
    x = torch.ones(64, requires_grad=True)
    output = checkpoint(DropoutOfAPart(0.5, 1), x * 2, use_reentrant=False)
    (output * output).sum().backward()
    assert x.grad is not None
    assert x.grad.eq(0).tolist() == output.eq(0).tolist()
    assert 0 < int(output.eq(0).sum()) < 64


def test_nothing_is_dropped_outside_of_training() -> None:
    before = torch.get_rng_state()
    assert torch.equal(DropoutOfAPart(0.5, 1).eval()(torch.ones(64)), torch.ones(64))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("style", "are_parts"), [("colwise", True), ("colwise_gather_output", False)]
)
def test_heads_are_dropped_apart_where_each_rank_has_some(
    style: str, are_parts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = SimpleNamespace(
        tp_plan={"model.layers.*.self_attn.q_proj": style},
        config=SimpleNamespace(attention_dropout=0.5),
    )
    attended = []
    for rank in range(2):
        with monkeypatch.context() as patched:
            patched.setattr(ATTENTION, "get_interface", ATTENTION.get_interface)
            patched.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
            drop_heads_by_rank(model)
            torch.manual_seed(7)
            attend = ATTENTION.get_interface("sdpa", None)
            heads = torch.ones(1, 2, 8, 4)
            module = SimpleNamespace(num_key_value_groups=1, is_causal=True)
            attended.append(attend(module, heads, heads, heads, None, dropout=0.5)[0])
    assert torch.equal(*attended) != are_parts
