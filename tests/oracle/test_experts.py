"""Routed experts against the real libraries: what is quantized, adapted and counted."""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from msgspec import convert, to_builtins
from peft import LoraConfig, get_peft_model
from torch.autograd.graph import saved_tensors_hooks

from launcher.compat.adapted_experts import adapted_by
from launcher.compat.packed_experts import held
from launcher.training.model_building import EXPERTS_IMPLEMENTATION, load_base, with_adapter
from planner.models.model_presets import load_model
from planner.models.model_spec import ModelSpec
from planner.plan.bounds import RANKS_OF_EXPERTS
from planner.plan.schema import Plan, QuantizationSection
from planner.workload.quantization import nf4_bytes, with_experts
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
        packed = with_experts(QuantizationSection(quant_type="nf4", double_quant=True), spec)
        changes |= {"method": "qlora", "quantization": to_builtins(packed)}
    return convert(plan_content(**changes), Plan)


@pytest.mark.parametrize("name", MIXTURES)
def test_experts_are_packed_as_counted(name: str, tmp_path: Path) -> None:
    """As the launcher loads them: transformers replaces nn.Linear, and experts are packed beside
    it but where every one of them is given every token."""
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
    work = workload_of(spec, "qlora", "fp32", 0.0, "all-linear")
    assert rest == spec.unquantized_params - work.packed_expert_params
    assert packed == sum(count * (x.weight_params // 2) for x, count in work.counted_packed)
    assert (work.packed_expert_params == 0) == experts.dense
    stacks = {name for name, _ in packed_stacks(loaded)}
    assert stacks == (set() if experts.dense else {experts.first, "experts.down_proj"})
    kept = sum(tensor.nbytes for _, tensors in packed_stacks(loaded) for tensor in tensors)
    assert kept == sum(
        count * nf4_bytes(num_weights=x.weight_params, double_quant=True)
        for x, count in work.counted_packed
        if x.name in stacks
    )
    ids = torch.randint(1, spec.vocab_size, (2, 12))
    for module in loaded.modules():
        for stack in (getattr(module, name) for name in getattr(module, "parametrizations", ())):
            assert torch.equal(stack[torch.tensor([3, 1])], stack.unpacked()[[3, 1]])
    loss, gradient, whole_stacks = run(loaded, ids, experts.num_experts)
    assert experts.dense or whole_stacks == 0
    make_whole(loaded)
    expected_loss, expected_gradient, whole_stacks = run(loaded, ids, experts.num_experts)
    assert experts.dense or whole_stacks > 0
    assert torch.equal(loss, expected_loss)
    assert torch.equal(gradient, expected_gradient)


def packed_stacks(model: Any) -> Iterator[tuple[str, tuple[torch.Tensor, ...]]]:
    """Name of each tensor of all experts that is packed, and what is kept of it."""
    for module in model.modules():
        for name in getattr(module, "parametrizations", {}):
            yield f"experts.{name}", held(module, name)


def make_whole(model: Any) -> None:
    """Put the unpacked tensors in the place of the packed ones."""
    for module in list(model.modules()):
        if not hasattr(module, "parametrizations"):
            continue
        whole = {name: getattr(module, name).unpacked() for name in module.parametrizations}
        del module.parametrizations
        module.__class__ = type(module).__bases__[0]
        for name, tensor in whole.items():
            setattr(module, name, torch.nn.Parameter(tensor, requires_grad=False))


def run(model: Any, ids: torch.Tensor, num_experts: int) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Loss, gradient of the embeddings, and how many tensors of all experts are saved whole."""
    embedded = model.get_input_embeddings()(ids).detach().requires_grad_()
    whole_stacks = 0

    def note(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal whole_stacks
        is_stack = tensor.ndim == 3 and tensor.shape[0] == num_experts
        whole_stacks += is_stack and not tensor.requires_grad
        return tensor

    with saved_tensors_hooks(note, lambda tensor: tensor):
        loss = model(inputs_embeds=embedded, labels=ids, use_cache=False).loss
    loss.backward()
    assert embedded.grad is not None
    return loss.detach(), embedded.grad, whole_stacks


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


BOTH = ("experts.gate_up_proj", "experts.down_proj")


def settings(parameters: Sequence[str], **changes: Any) -> LoraConfig:
    """Adapters that change much from the beginning."""
    return LoraConfig(
        r=8,
        lora_alpha=12,
        target_modules=["q_proj"],
        target_parameters=list(parameters),
        init_lora_weights=False,
        **changes,
    )


@pytest.mark.parametrize("setting", [{"lora_dropout": 0.1}, {"use_dora": True}])
def test_peft_adapts_experts_without_dropout_and_dora(setting: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="does not work with"):
        get_peft_model(build(SHAPES["mixtral"]), settings(BOTH, **setting))


def in_peft(model: Any, parameters: Sequence[str]) -> Any:
    """A model with the same adapters whoever attaches them."""
    torch.manual_seed(1)
    return get_peft_model(model, settings(parameters))


def step(model: Any, ids: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Loss, and the gradients of all that trains."""
    loss = model(input_ids=ids, labels=ids, use_cache=False).loss
    loss.backward()
    return loss.detach(), {name: x.grad for name, x in model.named_parameters() if x.requires_grad}


@pytest.mark.parametrize(
    ("name", "parameters"), [("mixtral", BOTH), ("mixtral", BOTH[1:]), ("gpt-oss", BOTH)]
)
def test_adapters_of_experts_do_what_peft_does(name: str, parameters: Sequence[str]) -> None:
    """By rows, and added to whole tensors: the same loss, gradients and names of parameters."""
    base = build(SHAPES[name])
    attach = partial(in_peft, parameters=parameters)
    ids = torch.randint(1, SHAPES[name].vocab_size, (2, 12))
    expected_loss, expected = step(attach(deepcopy(base)), ids)
    model = adapted_by(attach, base)
    loss, found = step(model, ids)
    torch.testing.assert_close(loss, expected_loss)
    assert found.keys() == expected.keys()
    for parameter, gradient in expected.items():
        torch.testing.assert_close(found[parameter], gradient, rtol=1e-4, atol=1e-6)
    with torch.no_grad():
        model.set_experts_implementation("batched_mm")
        torch.testing.assert_close(model(input_ids=ids, labels=ids).loss, loss)
        with model.disable_adapter():
            assert not torch.equal(model(input_ids=ids, labels=ids).loss, loss)


@pytest.mark.parametrize("name", ["mixtral", "gpt-oss"])
def test_adapters_of_packed_experts_are_those_of_unpacked_ones(name: str, tmp_path: Path) -> None:
    """Bit by bit, and token by token as in generation, too."""
    build(SHAPES[name]).save_pretrained(tmp_path)
    attach = partial(in_peft, parameters=BOTH)
    ids = torch.randint(1, SHAPES[name].vocab_size, (2, 12))
    results = list[tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor]]()
    for packed in (True, False):
        base = load_base(plan(name, quantized=True), tmp_path, torch.device("cpu"))
        if not packed:
            make_whole(base)
        model = adapted_by(attach, base)
        loss, gradients = step(model, ids)
        model.set_experts_implementation("batched_mm")
        with torch.no_grad():
            singly = model(input_ids=ids, labels=ids, use_cache=False).loss
        results.append((loss, gradients, singly))
    (loss, gradients, singly), (expected_loss, expected, expected_singly) = results
    assert torch.equal(loss, expected_loss)
    assert torch.equal(singly, expected_singly)
    assert gradients.keys() == expected.keys()
    for parameter, gradient in expected.items():
        assert torch.equal(gradients[parameter], gradient)


def test_grouped_products_want_rows_of_16_bytes() -> None:
    """Why the rank of experts' adapters is a multiple of 8."""
    offsets = torch.tensor([2, 5], dtype=torch.int32)
    for rank in (RANKS_OF_EXPERTS, RANKS_OF_EXPERTS + 4):
        rows, b = torch.ones(5, rank).bfloat16(), torch.ones(2, 16, rank).bfloat16()
        refused = pytest.raises(RuntimeError, match="multiple of 16 bytes")
        with refused if rank % RANKS_OF_EXPERTS else nullcontext():
            torch.nn.functional.grouped_mm(rows, b.transpose(1, 2), offs=offsets)
