"""The ledgers against autograd: exact, on a CPU, with models of a few kilobytes."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from planner.activations import Batch, layer_ledger, total_bytes
from planner.model import ModelSpec
from planner.numerics import numerics
from planner.plan import AdapterSection, Method, Precision, ZeroStage
from planner.recipe import Workload, load_recipe

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
SHAPES = {
    "llama": ModelSpec(
        model_type="llama",
        num_layers=2,
        hidden_size=64,
        intermediate_size=160,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        vocab_size=128,
        max_position_embeddings=256,
    ),
    "qwen2": ModelSpec(
        model_type="qwen2",
        num_layers=2,
        hidden_size=64,
        intermediate_size=96,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=16,
        vocab_size=128,
        max_position_embeddings=256,
        qkv_bias=True,
    ),
    "glm": ModelSpec(
        model_type="glm",
        num_layers=2,
        hidden_size=64,
        intermediate_size=160,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        vocab_size=128,
        max_position_embeddings=256,
        qkv_bias=True,
        mlp="fused-swiglu",
        rotary_fraction=0.5,
    ),
}


def build(spec: ModelSpec) -> Any:
    settings = {
        "vocab_size": spec.vocab_size,
        "hidden_size": spec.hidden_size,
        "intermediate_size": spec.intermediate_size,
        "num_hidden_layers": spec.num_layers,
        "num_attention_heads": spec.num_attention_heads,
        "num_key_value_heads": spec.num_key_value_heads,
        "head_dim": spec.head_dim,
        "attention_bias": spec.qkv_bias,
        "max_position_embeddings": spec.max_position_embeddings,
        "pad_token_id": 0,
        "attn_implementation": "sdpa",
    }
    if spec.rotary_fraction < 1:
        settings["rope_parameters"] = {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "partial_rotary_factor": spec.rotary_fraction,
        }
    config = transformers.AutoConfig.for_model(spec.model_type, **settings)
    return transformers.AutoModelForCausalLM.from_config(config)


def prepare(model: Any, workload: Workload, *, zero_stage: ZeroStage) -> Any:
    """Dtypes and adapters as the launcher gives them."""
    kinds = numerics(method=workload.method, compute=workload.compute, zero_stage=zero_stage)
    if workload.method == "full":
        return model.to(torch.float32 if kinds.trainable == 4 else torch.bfloat16)
    model = model.to(DTYPES[workload.compute])
    adapter = workload.recipe.adapter
    assert adapter is not None
    config = peft.LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha,
        lora_dropout=adapter.dropout,
        target_modules=adapter.target_modules
        if isinstance(adapter.target_modules, str)
        else list(adapter.target_modules),
    )
    return peft.get_peft_model(model, config, autocast_adapter_dtype=kinds.trainable == 4)


@contextmanager
def bytes_kept(layer: torch.nn.Module, parameters: set[int]) -> Iterator[dict[int, int]]:
    """Distinct storages that autograd keeps while ``layer`` runs, the parameters aside."""
    sizes: dict[int, int] = {}
    kept: list[torch.Tensor] = []  # held, so that no address is used twice
    inside = False

    def enter(*_: object) -> None:
        nonlocal inside
        inside = True

    def leave(*_: object) -> None:
        nonlocal inside
        inside = False

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if inside and storage.data_ptr() not in parameters:
            sizes[storage.data_ptr()] = storage.nbytes()
            kept.append(tensor)
        return tensor

    hooks = (layer.register_forward_pre_hook(enter), layer.register_forward_hook(leave))
    with saved_tensors_hooks(note, lambda tensor: tensor):
        yield sizes
    for hook in hooks:
        hook.remove()


def last_layer_bytes(
    workload: Workload, batch: Batch, *, zero_stage: ZeroStage
) -> tuple[int, set[int]]:
    torch.manual_seed(0)
    model = prepare(build(workload.model), workload, zero_stage=zero_stage).train()
    layer = [m for m in model.modules() if type(m).__name__.endswith("DecoderLayer")][-1]
    kinds = numerics(method=workload.method, compute=workload.compute, zero_stage=zero_stage)
    shape = (batch.micro_batch_size, batch.sequence_length)
    ids = torch.randint(1, workload.model.vocab_size, shape)
    mask = torch.ones_like(ids)
    if batch.padded:
        mask[0, -5:] = 0
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    # Shared by all layers, and counted in the model's own ledger.
    tables: set[int] = set()

    def note_tables(_module: object, _inputs: object, outputs: tuple[torch.Tensor, ...]) -> None:
        tables.update(x.untyped_storage().data_ptr() for x in outputs)

    rotary = next(m for m in model.modules() if type(m).__name__.endswith("RotaryEmbedding"))
    rotary.register_forward_hook(note_tables)
    with (
        bytes_kept(layer, parameters) as sizes,
        torch.autocast("cpu", torch.bfloat16, enabled=kinds.autocast),
    ):
        _output = model(input_ids=ids, attention_mask=mask, use_cache=False)
        kept = {pointer: size for pointer, size in sizes.items() if pointer not in tables}
    return sum(kept.values()), set(kept.values())


def workload_of(
    spec: ModelSpec, method: Method, compute: Precision, dropout: float, targets: Any
) -> Workload:
    recipe = load_recipe(method)
    if recipe.adapter is not None:
        adapter = AdapterSection(rank=8, alpha=16, dropout=dropout, target_modules=targets)
        recipe = recipe.model_copy(update={"adapter": adapter})
    return Workload(model=spec, recipe=recipe, compute=compute)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("shape", [(2, 64), (1, 128)])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(
    ("method", "compute", "zero_stage", "dropout", "targets"),
    [
        ("full", "bf16", 0, 0.0, "all-linear"),
        ("full", "bf16", 2, 0.0, "all-linear"),
        ("full", "fp32", 0, 0.0, "all-linear"),
        ("lora", "bf16", 0, 0.0, "all-linear"),
        ("lora", "bf16", 0, 0.05, "all-linear"),
        ("lora", "bf16", 0, 0.05, ("q_proj", "v_proj")),
        ("lora", "bf16", 2, 0.0, "all-linear"),
        ("lora", "bf16", 2, 0.05, "all-linear"),
        ("lora", "fp32", 0, 0.05, "all-linear"),
        ("lora", "fp32", 0, 0.0, ("q_proj", "k_proj", "down_proj")),
    ],
)
def test_layer_keeps_what_the_ledger_says(
    name: str,
    shape: tuple[int, int],
    padded: bool,
    method: Method,
    compute: Precision,
    zero_stage: ZeroStage,
    dropout: float,
    targets: Any,
) -> None:
    workload = workload_of(SHAPES[name], method, compute, dropout, targets)
    batch = Batch(
        micro_batch_size=shape[0], sequence_length=shape[1], padded=padded, dropout_mask_bytes=None
    )
    kinds = numerics(method=method, compute=compute, zero_stage=zero_stage)
    kept, _sizes = last_layer_bytes(workload, batch, zero_stage=zero_stage)
    assert total_bytes(layer_ledger(workload, batch, kinds)) == kept
