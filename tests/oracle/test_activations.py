"""The ledgers against autograd: exact, on a CPU, with models of a few kilobytes."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from planner.activations import layer_ledger
from planner.numerics import numerics
from planner.plan import Method, Precision, ZeroStage
from planner.recipe import Batch, Workload
from tests.oracle.small_models import SHAPES, build, prepare, workload_of


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


def layer_bytes(workload: Workload, batch: Batch, *, zero_stage: ZeroStage, index: int) -> int:
    """What autograd keeps of the layer at ``index``."""
    torch.manual_seed(0)
    model = prepare(build(workload.model), workload, zero_stage=zero_stage).train()
    layer = [m for m in model.modules() if type(m).__name__.endswith("DecoderLayer")][index]
    kinds = numerics(method=workload.method, compute=workload.compute, zero_stage=zero_stage)
    shape = (batch.micro_batch_size, batch.sequence_length)
    ids = torch.randint(1, workload.model.vocab_size, shape)
    mask = torch.ones_like(ids)
    if batch.masked:
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
    return sum(kept.values())


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize(("shape", "padded"), [((1, 128), False), ((2, 64), True)])
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
        ("qlora", "fp32", 0, 0.0, "all-linear"),
        ("qlora", "fp32", 0, 0.05, "all-linear"),
        ("qlora", "bf16", 0, 0.0, "all-linear"),
        ("qlora", "bf16", 0, 0.05, "all-linear"),
        ("qlora", "bf16", 2, 0.0, "all-linear"),
        ("qlora", "bf16", 2, 0.05, "all-linear"),
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
    spec = SHAPES[name]
    workload = workload_of(spec, method, compute, dropout, targets)
    batch = Batch(micro_batch_size=shape[0], sequence_length=shape[1], masked=padded, device="cpu")
    kinds = numerics(method=method, compute=compute, zero_stage=zero_stage)
    for index, first in ((0, True), (-1, False)):
        ledger = layer_ledger(workload, batch, kinds, spec.layers[index], first=first)
        kept = layer_bytes(workload, batch, zero_stage=zero_stage, index=index)
        assert sum(row.num_bytes for row in ledger) == kept
