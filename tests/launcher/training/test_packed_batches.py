"""Packed documents: apart in every architecture that is allowed to pack, and as they are alone."""

from itertools import chain
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from launcher.training.batches.packed_batches import CheckDocumentsApart, PackedCollator, influence
from planner.base.errors import UserError
from planner.models.module_names import ONLY_ATTENTION
from planner.workload.rules import broken_rule
from tests.planner.builders import combination

SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
LATENT = {
    "kv_lora_rank": 8,
    "q_lora_rank": 8,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "num_key_value_heads": 4,
}
APART: dict[str, dict[str, Any]] = {
    "deepseek_v2": LATENT,
    "gemma": {},
    "gemma2": {"sliding_window": 4},
    "gemma3_text": {"sliding_window": 4},
    "glm": {},
    "glm4": {},
    "gpt2": {},
    "gpt_neox": {},
    "granite": {},
    "llama": {},
    "mistral": {"sliding_window": 4},
    "mixtral": {"num_local_experts": 4},
    "olmo2": {},
    "olmoe": {"num_experts": 4, "num_experts_per_tok": 2},
    "phi": {},
    "phi3": {},
    "qwen2": {},
    "qwen3": {},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    "smollm3": {},
    "stablelm": {},
    "starcoder2": {},
}
SEEING: dict[str, dict[str, Any]] = {
    "bloom": {},
    "falcon": {"head_dim": None},
    "gpt_oss": {"num_local_experts": 4},
    "mpt": {},
    "opt": {"word_embed_proj_dim": 32},
}
MIXER = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_chunk_size": 16}
CARRYING: dict[str, dict[str, Any]] = {
    "bamba": MIXER,
    "falcon_h1": MIXER | {"mamba_d_ssm": 64},
    "granitemoehybrid": MIXER | {"num_local_experts": 0},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 1},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_experts": 4},
    "mamba2": {"num_heads": 4, "head_dim": 16, "n_groups": 1, "state_size": 8},
    "nemotron_h": {
        "num_hidden_layers": None,
        "layers_block_type": ["linear_attention", "mlp"],
        "mamba_num_heads": 4,
        "mamba_head_dim": 16,
        "n_groups": 1,
        "ssm_state_size": 8,
    },
    "qwen3_5_text": {"linear_num_value_heads": 16, "linear_key_head_dim": 8},
}
"""Architectures whose layers carry a state from one document into the next."""


def small(model_type: str, settings: dict[str, Any], attention: str | None = None) -> Any:
    torch.manual_seed(0)
    given = {key: value for key, value in {**SMALL, **settings}.items() if value is not None}
    config = AutoConfig.for_model(model_type, **given)
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention).float()


def refused(model_type: str) -> bool:
    packed = combination(model_type=model_type, packing=True)
    return broken_rule(packed, pinned=frozenset({"strategy"})) is not None


@pytest.mark.parametrize("model_type", APART)
def test_documents_do_not_see_each_other(model_type: str) -> None:
    moved, noise = influence(small(model_type, APART[model_type]))
    assert moved <= noise
    assert not refused(model_type)


@pytest.mark.parametrize("model_type", SEEING)
def test_where_they_do_packing_is_refused(model_type: str) -> None:
    """By the planner, and by the launcher before the first step."""
    model = small(model_type, SEEING[model_type])
    moved, noise = influence(model)
    assert moved > 1000 * noise
    assert refused(model_type)
    with pytest.raises(UserError, match=r"attends across .* Set batch.packing to false"):
        CheckDocumentsApart().on_train_begin(model=model)


@pytest.mark.parametrize(
    "model_type",
    [each if each == "lfm2" else pytest.param(each, marks=pytest.mark.long) for each in CARRYING],
)
def test_where_a_state_goes_on_packing_is_refused(model_type: str) -> None:
    attention = ONLY_ATTENTION.get(model_type)
    moved, noise = influence(small(model_type, CARRYING[model_type], attention))
    assert moved > 100 * noise
    assert refused(model_type)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_packed_batch_is_its_documents(attention: str) -> None:
    """Logits, loss and gradients of two packed rows equal those of the five documents alone."""
    documents = [list(range(5, 5 + length)) for length in (7, 4, 9, 3, 6)]
    rows = [documents[:3], documents[3:]]
    batch = PackedCollator(pad_token_id=0)(
        [
            {
                "input_ids": list(chain(*row)),
                "labels": list(chain(*row)),
                "seq_lengths": [len(document) for document in row],
            }
            for row in rows
        ]
    )
    assert "attention_mask" not in batch
    model = small("llama", {}, attention).train()
    packed = model(**batch, use_cache=False)
    packed.loss.backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()

    losses: Any = torch.zeros(())
    count = 0
    for row, logits in zip(rows, packed.logits, strict=True):
        start = 0
        for document in row:
            ids = torch.tensor([document])
            alone = model(input_ids=ids, labels=ids, use_cache=False)
            part = logits[start : start + len(document)]
            torch.testing.assert_close(part, alone.logits[0], rtol=1e-5, atol=1e-6)
            losses = losses + alone.loss * (len(document) - 1)
            start, count = start + len(document), count + len(document) - 1
    mean: Any = losses / count
    mean.backward()
    torch.testing.assert_close(packed.loss, mean)
    for parameter, expected in zip(model.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-4, atol=1e-6)


def test_with_a_cache_they_would_see_each_other() -> None:
    """transformers looks for packed documents only where nothing is cached."""
    model = small("llama", {}).eval()
    ids = torch.tensor([[5, 6, 7, 8, 9, 10]])
    positions = torch.tensor([[0, 1, 2, 0, 1, 2]])
    other = ids.clone()
    other[0, 0] = 20
    seen = [
        model(input_ids=x, position_ids=positions, use_cache=cached).logits[0, 3:]
        for cached in (True, False)
        for x in (ids, other)
    ]
    assert not torch.equal(seen[0], seen[1])
    assert torch.equal(seen[2], seen[3])
