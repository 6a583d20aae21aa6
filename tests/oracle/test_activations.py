"""The ledgers against autograd: exact, on a CPU, with models of a few kilobytes."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from typing import Any
from weakref import WeakSet

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from planner.models.module_names import module_names
from planner.plan.vocabulary import Method, Precision, ZeroStage
from planner.workload.dtypes import numerics
from planner.workload.workload import Batch, Workload
from tests.oracle.ledgers import layer_ledger
from tests.oracle.small_models import SHAPES, build, prepare, workload_of


class Kept:
    """A tensor that autograd keeps; gone when the node that keeps it is."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor


def int8_products(output: torch.Tensor) -> set[Any]:
    """Nodes behind a tensor that hold their input beside autograd's saved tensors."""
    found: set[Any] = set()
    waiting = [output.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in found:
            found.add(node)
            waiting += [edge for edge, _ in node.next_functions]
    return {node for node in found if hasattr(node, "A")}


@contextmanager
def kept_by(layer: torch.nn.Module) -> Iterator[WeakSet[Kept]]:
    """What autograd keeps, for as long as it does, of what runs inside ``layer``."""
    found: WeakSet[Kept] = WeakSet()
    inside = False

    def enter(*_: object) -> None:
        nonlocal inside
        inside = True

    def leave(_module: object, inputs: tuple[torch.Tensor, ...], output: Any) -> None:
        nonlocal inside
        inside = False
        hidden = output[0] if isinstance(output, tuple) else output
        for node in int8_products(hidden) - int8_products(inputs[0]):
            node.kept = Kept(node.A)
            found.add(node.kept)

    def pack(tensor: torch.Tensor) -> Kept:
        # An output that its own node saves would hold that node, and so itself.
        kept = Kept(tensor.detach())
        if inside:
            found.add(kept)
        return kept

    hooks = (layer.register_forward_pre_hook(enter), layer.register_forward_hook(leave))
    with saved_tensors_hooks(pack, lambda kept: kept.tensor):
        yield found
    for hook in hooks:
        hook.remove()


def bytes_kept(found: WeakSet[Kept], others: set[int]) -> int:
    """Distinct storages, ``others`` aside."""
    storages = [kept.tensor.untyped_storage() for kept in found]
    sizes = {storage.data_ptr(): storage.nbytes() for storage in storages}
    return sum(size for pointer, size in sizes.items() if pointer not in others)


def layer_bytes(workload: Workload, batch: Batch, *, zero_stage: ZeroStage, index: int) -> int:
    """What autograd keeps of the layer at ``index``."""
    torch.manual_seed(0)
    model = prepare(build(workload.model), workload, zero_stage=zero_stage).train()
    base = model.get_base_model() if workload.settings.adapter is not None else model
    layer = base.get_submodule(module_names(workload.model.model_type).layers)[index]
    kinds = numerics(method=workload.method, compute=workload.compute, zero_stage=zero_stage)
    shape = (batch.micro_batch_size, batch.sequence_length)
    ids = torch.randint(1, workload.model.vocab_size, shape)
    mask = torch.ones_like(ids)
    if batch.masked:
        mask[0, -5:] = 0
    # Shared by all layers, and counted in the model's own ledger.
    tables: set[int] = set()

    def note_tables(_module: object, _inputs: object, outputs: tuple[torch.Tensor, ...]) -> None:
        tables.update(x.untyped_storage().data_ptr() for x in outputs)

    for rotary in (m for m in model.modules() if type(m).__name__.endswith("RotaryEmbedding")):
        rotary.register_forward_hook(note_tables)
    with (
        kept_by(layer) as found,
        torch.autocast("cpu", torch.bfloat16, enabled=kinds.autocast),
    ):
        _output = model(input_ids=ids, attention_mask=mask, use_cache=False)
        # bitsandbytes gives biases other storages in their first forward pass.
        weights = (*model.parameters(), *model.buffers())
        return bytes_kept(found, {x.untyped_storage().data_ptr() for x in weights} | tables)


Setting = tuple[Method, Precision, ZeroStage, float, Any]
SETTINGS: tuple[Setting, ...] = (
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
    ("qlora", "fp32", 0, 0.0, "all-linear"),
    ("qlora", "fp32", 0, 0.05, "all-linear"),
    ("qlora", "bf16", 0, 0.0, "all-linear"),
    ("qlora", "bf16", 0, 0.05, "all-linear"),
    ("qlora", "bf16", 2, 0.0, "all-linear"),
    ("qlora", "bf16", 2, 0.05, "all-linear"),
)
WHOLE = ("llama", "qwen2", "glm", "qwen3", "phi3", "gemma2", "gpt_neox", "mixtral", "deepseek-v2")
"""Shapes that are held in every setting, alone and padded; of the others every second setting
is held alone, and the rest padded."""
AT_ONCE = (0, 7, 8, 15)
"""Settings in which the shapes that are not whole are held in every run of the tests: full and
LoRA alone, LoRA and QLoRA padded. The others are long."""
VARIANTS = (
    "bamba",
    "falcon-h1",
    "falcon-h1-norm",
    "granite-4-attention",
    "granite-4-moe",
    "jamba-mixture",
    "lfm2-bias",
    "lfm2-moe",
    "mamba-2",
    "nemotron-h-latent",
)
"""Shapes that differ little from another one: all of theirs are long."""


NEVER_PACKED = ("gemma3n",)
"""Shapes that no 4-bit training can run."""


def cases() -> Iterator[Any]:
    for name, (number, setting) in product(SHAPES, enumerate(SETTINGS)):
        if name in NEVER_PACKED and setting[0] == "qlora":
            continue
        at_once = name in WHOLE or (number in AT_ONCE and name not in VARIANTS)
        marks = () if at_once else (pytest.mark.long,)
        if name in WHOLE or number % 2 == 0:
            yield pytest.param(name, (1, 128), False, setting, marks=marks)
        if name in WHOLE or number % 2 == 1:
            yield pytest.param(name, (2, 64), True, setting, marks=marks)


@pytest.mark.parametrize(("name", "shape", "padded", "setting"), list(cases()))
def test_layer_keeps_what_the_ledger_says(
    name: str, shape: tuple[int, int], padded: bool, setting: Setting
) -> None:
    method, compute, zero_stage, dropout, targets = setting
    workload = workload_of(SHAPES[name], method, compute, dropout, targets)
    hold_against_autograd(workload, shape, padded=padded, zero_stage=zero_stage)


def hold_against_autograd(
    workload: Workload, shape: tuple[int, int], *, padded: bool, zero_stage: ZeroStage
) -> None:
    """The ledgers of the first and the last layer, each to the byte."""
    batch = Batch(micro_batch_size=shape[0], sequence_length=shape[1], masked=padded, device="cpu")
    kinds = numerics(method=workload.method, compute=workload.compute, zero_stage=zero_stage)
    layers = workload.model.layers
    adapted = [workload.adapted(kind) + workload.adapted_experts(kind) for kind in layers[:-1]]
    behind_trained = workload.method == "full" or any(adapted)
    for index, first in ((0, True), (-1, not behind_trained)):
        ledger = layer_ledger(workload, batch, kinds, layers[index], first=first)
        kept = layer_bytes(workload, batch, zero_stage=zero_stage, index=index)
        assert sum(row.num_bytes for row in ledger) == kept


@pytest.mark.parametrize("name", ["llama", "qwen2", "phi3"])
@pytest.mark.parametrize("dropout", [0.0, 0.05])
@pytest.mark.parametrize(
    ("method", "compute", "zero_stage"),
    [
        ("lora", "bf16", 0),
        ("lora", "bf16", 2),
        ("lora", "fp32", 0),
        ("qlora", "bf16", 0),
        ("qlora", "bf16", 2),
        ("qlora", "fp32", 0),
    ],
)
def test_dora_keeps_what_the_ledger_says(
    name: str, dropout: float, method: Method, compute: Precision, zero_stage: ZeroStage
) -> None:
    workload = workload_of(SHAPES[name], method, compute, dropout, "all-linear", dora=True)
    hold_against_autograd(workload, (2, 64), padded=True, zero_stage=zero_stage)


@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2"])
@pytest.mark.parametrize("dropout", [0.0, 0.05])
@pytest.mark.parametrize(
    ("method", "compute", "named"),
    [
        ("lora", "bf16", None),
        ("lora", "fp32", None),
        ("qlora", "bf16", None),
        ("qlora", "bf16", "qlora-int8"),
    ],
)
def test_vera_keeps_what_the_ledger_says(
    name: str, dropout: float, method: Method, compute: Precision, named: str | None
) -> None:
    workload = workload_of(
        SHAPES[name], method, compute, dropout, "all-linear", vera=True, named=named
    )
    hold_against_autograd(workload, (2, 64), padded=True, zero_stage=0)


@pytest.mark.parametrize("name", [*WHOLE, "gpt2", "bloom"])
@pytest.mark.parametrize(("shape", "padded"), [((1, 128), False), ((2, 64), True)])
@pytest.mark.parametrize(
    ("compute", "zero_stage", "dropout", "targets"),
    [
        ("bf16", 0, 0.0, "all-linear"),
        ("bf16", 0, 0.05, ("q_proj", "v_proj")),
        ("bf16", 2, 0.05, "all-linear"),
        ("fp32", 0, 0.05, "all-linear"),
    ],
)
def test_int8_keeps_what_the_ledger_says(
    name: str,
    shape: tuple[int, int],
    padded: bool,
    compute: Precision,
    zero_stage: ZeroStage,
    dropout: float,
    targets: Any,
) -> None:
    workload = workload_of(SHAPES[name], "qlora", compute, dropout, targets, named="qlora-int8")
    hold_against_autograd(workload, shape, padded=padded, zero_stage=zero_stage)


EXPERTS = ("all-linear", "experts")
WITH_ADAPTED_EXPERTS = (
    "mixtral",
    "gpt-oss",
    *(
        pytest.param(name, marks=pytest.mark.long)
        for name in ("qwen3-moe", "olmoe", "qwen2-moe", "nemotron-h")
    ),
)


@pytest.mark.parametrize("name", WITH_ADAPTED_EXPERTS)
@pytest.mark.parametrize(
    ("method", "compute", "zero_stage", "targets"),
    [
        ("lora", "bf16", 0, EXPERTS),
        ("lora", "bf16", 2, EXPERTS),
        ("lora", "fp32", 0, ("experts.down_proj",)),
        ("qlora", "bf16", 0, EXPERTS),
        ("qlora", "bf16", 2, ("experts",)),
    ],
)
def test_adapted_experts_keep_what_the_ledger_says(
    name: str, method: Method, compute: Precision, zero_stage: ZeroStage, targets: Any
) -> None:
    """What enters an expert's adapters, what is between their factors, and these."""
    workload = workload_of(SHAPES[name], method, compute, 0.0, targets)
    assert workload.settings.adapter is not None
    assert workload.settings.adapter.target_parameters
    hold_against_autograd(workload, (2, 64), padded=False, zero_stage=zero_stage)
