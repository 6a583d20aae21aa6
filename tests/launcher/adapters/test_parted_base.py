"""Adapters that begin as a part of their base: as peft begins them, and for the base as it was."""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("peft")

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from launcher.adapters.parted_base import begun, for_whole_base, part_base, without_part
from launcher.training.model_building import lora_config
from planner.base.errors import InvalidFileError
from tests.launcher.plans import IN_FP32, plan

CPU = torch.device("cpu")
TOKENS = torch.arange(1, 9)[None]


def llama() -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    return LlamaForCausalLM(config).eval()


def gpt2() -> Any:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=32, n_embd=32, n_layer=1, n_head=2, n_positions=32)
    return GPT2LMHeadModel(config).eval()


def adapted(model: Any, made: Any) -> Any:
    transposed = isinstance(model, GPT2LMHeadModel)
    return get_peft_model(model, lora_config(made.adapter, transposed=transposed)).eval()


def part(model: Any, made: Any, kept: Path, *, resumes: bool = False) -> Any:
    options: Any = {"dtype": torch.float32, "device": CPU, "resumes": resumes}
    part_base(made.adapter, model, kept, at_matrix=lambda: None, **options)
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("init", ["pissa", "pissa_niter_4", "olora"])
def test_a_matrix_is_parted_as_peft_parts_it(init: str, dtype: torch.dtype) -> None:
    adapter = plan(adapter__init=init, adapter__alpha=12).adapter
    assert adapter is not None
    model = llama().to(dtype)
    weight = model.model.layers[1].mlp.up_proj.weight.data.clone()
    config = LoraConfig(
        r=4, lora_alpha=12, init_lora_weights=init, target_modules=["1.mlp.up_proj"]
    )
    torch.manual_seed(1)
    layer = get_peft_model(model, config).base_model.model.model.layers[1].mlp.up_proj
    torch.manual_seed(1)
    torch.nn.Linear(32, 4, bias=False), torch.nn.Linear(4, 48, bias=False)  # draw numbers, too
    down, up = begun(weight, adapter, 3.0, torch.float32)
    # peft rounds A and B to the base's precision when it has parted that
    assert torch.equal(down.to(dtype).float(), layer.lora_A.default.weight)
    assert torch.equal(up.to(dtype).float(), layer.lora_B.default.weight)
    rest = without_part(weight, (down, up), 3.0)
    assert torch.equal(rest, layer.base_layer.weight)
    assert not torch.equal(rest, weight)


@pytest.mark.parametrize(
    ("build", "changes"),
    [
        (llama, {"init": "pissa"}),
        (llama, {"init": "olora", "rslora": True}),
        (llama, {"init": "pissa_niter_2", "dora": True}),
        (gpt2, {"init": "pissa"}),
    ],
)
def test_what_is_saved_is_an_adapter_of_the_base_as_it_was(
    build: Any, changes: dict[str, Any], tmp_path: Path
) -> None:
    """It begins as the base, and whoever loads it onto that has what was trained."""
    made = plan(precision=IN_FP32, **{f"adapter__{key}": value for key, value in changes.items()})
    with torch.no_grad():
        before = build()(TOKENS).logits
        model = part(adapted(build(), made), made, tmp_path / "began")
        torch.testing.assert_close(model(TOKENS).logits, before, rtol=1e-4, atol=1e-5)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * parameter.std() * torch.randn_like(parameter)
        trained = model(TOKENS).logits
        assert (trained - before).abs().max() > 0.01
        model.save_pretrained(tmp_path / "adapter")
        for_whole_base(tmp_path / "adapter", tmp_path / "began")
        loaded = PeftModel.from_pretrained(build(), tmp_path / "adapter").eval()
        assert loaded.peft_config["default"].r == 8
        torch.testing.assert_close(loaded(TOKENS).logits, trained, rtol=1e-4, atol=1e-5)


def test_a_run_that_resumes_parts_the_base_as_it_began(tmp_path: Path) -> None:
    made = plan(adapter__init="pissa_niter_2", precision=IN_FP32)
    first = part(adapted(llama(), made), made, tmp_path / "began")
    torch.manual_seed(7)
    again = part(adapted(llama(), made), made, tmp_path / "began", resumes=True)
    for one, other in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
    other = plan(adapter__init="olora", precision=IN_FP32)
    with pytest.raises(InvalidFileError, match="what the adapter began as"):
        part(adapted(llama(), other), other, tmp_path / "began", resumes=True)
    part(adapted(llama(), other), other, tmp_path / "began")
