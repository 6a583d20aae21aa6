"""Routed experts against the real libraries: what is quantized, adapted and counted."""

from pathlib import Path

import pytest
import torch
from msgspec import convert, to_builtins

from launcher.training.model_building import EXPERTS_IMPLEMENTATION, load_base, with_adapter
from planner.memory.model_states import frozen_bytes
from planner.models.model_presets import load_model
from planner.models.model_spec import ModelSpec
from planner.plan.schema import Plan
from planner.workload.dtypes import numerics
from tests.launcher.plans import plan_content
from tests.oracle.small_models import SHAPES, build, workload_of

MIXTURES = [name for name, spec in SHAPES.items() if spec.experts is not None]


def plan(name: str, *, quantized: bool) -> Plan:
    """QLoRA or LoRA of a small model, with the matrices that the planner names."""
    spec = SHAPES[name]
    work = workload_of(spec, "lora", "fp32", 0.1, "all-linear")
    assert work.settings.adapter is not None
    changes = {
        "model__model_type": spec.model_type,
        "adapter": to_builtins(work.settings.adapter),
        "precision": {"compute": "fp32", "frozen": "fp32", "trainable": "fp32", "master": None},
        "attention": "eager",
    }
    if quantized:
        changes |= {"method": "qlora", "quantization": {"quant_type": "nf4", "double_quant": True}}
    return convert(plan_content(**changes), Plan)


@pytest.mark.parametrize("name", MIXTURES)
def test_experts_stay_whole_under_qlora(name: str, tmp_path: Path) -> None:
    """As the launcher loads them: bitsandbytes replaces nn.Linear alone."""
    model = build(SHAPES[name])
    model.save_pretrained(tmp_path)
    loaded = load_base(plan(name, quantized=True), tmp_path, torch.device("cpu"))
    experts = SHAPES[name].experts
    assert experts is not None
    given_all = "eager"  # experts that are given every token have one way alone
    expected = given_all if experts.dense else EXPERTS_IMPLEMENTATION
    assert loaded.config._experts_implementation == expected
    packed = sum(p.numel() for p in loaded.parameters() if p.dtype == torch.uint8)
    rest = sum(p.numel() for p in loaded.parameters() if p.dtype != torch.uint8)
    spec = SHAPES[name]
    assert rest == spec.unquantized_params
    assert packed == sum(count * (x.weight_params // 2) for x, count in spec.counted_linears)
    work = workload_of(spec, "qlora", "fp32", 0.0, "all-linear")
    kinds = numerics(method="qlora", compute="fp32", zero_stage=0)
    assert frozen_bytes(work, kinds) > 4 * spec.routed_params


@pytest.mark.parametrize("name", MIXTURES)
def test_adapters_leave_experts_alone(name: str) -> None:
    """``all-linear`` as the planner names it: dropout is allowed, and nothing else trains."""
    adapted = with_adapter(plan(name, quantized=False), build(SHAPES[name]))
    trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    assert trained == workload_of(SHAPES[name], "lora", "fp32", 0.1, "all-linear").adapter_params
    assert not any("experts.lora" in key for key, _ in adapted.named_parameters())


@pytest.mark.parametrize(
    ("preset", "billions"),
    [
        ("mixtral-8x7b", 12.9),
        ("qwen3-30b-a3b", 3.4),
        ("olmoe-1b-7b", 1.3),
        ("qwen1.5-moe-a2.7b", 2.7),
    ],
)
def test_active_parameters_are_those_published(preset: str, billions: float) -> None:
    assert round(active_params(load_model(preset).spec) / 1e9, 1) == billions


def active_params(model: ModelSpec) -> int:
    """Return the parameters that one token meets: of the experts only those it is sent to."""
    assert model.experts is not None
    routed_layers = sum(count for kind, count in model.kinds.items() if kind.routed)
    stored = sum(model.experts.expert_tensors(model.hidden_size).values())
    idle = model.experts.num_experts - model.experts.experts_per_token
    return model.num_params - routed_layers * stored // model.experts.num_experts * idle
