"""The tensors that a workload trains, in the order in which an optimizer is given them.

An optimizer's states depend on each tensor's shape, and its step on their order:
transformers' trainer puts those that decay before the others, each in the model's order.
read: transformers/trainer.py at 5.23.0, create_optimizer and get_decay_parameter_names.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import Literal

from planner.expert_shape import ExpertsSpec
from planner.layer_kinds import LayerKind
from planner.model import ModelSpec
from planner.recipe import Workload

Role = Literal["weight", "embedding", "vector"]
"""A vector is a norm's weight or a bias: it does not decay."""


@dataclass(frozen=True, slots=True)
class TrainedTensor:
    """One parameter that gets a gradient."""

    shape: tuple[int, ...]
    role: Role = "weight"

    @property
    def elements(self) -> int:
        return prod(self.shape)

    @property
    def decays(self) -> bool:
        return self.role != "vector"


@cache
def trained_tensors(workload: Workload) -> tuple[TrainedTensor, ...]:
    """Every trained tensor, a tied one once, in the model's order."""
    made = _model_tensors(workload) if workload.method == "full" else _adapter_tensors(workload)
    return tuple(made)


@cache
def counted_tensors(workload: Workload) -> Mapping[TrainedTensor, int]:
    """How many there are of each shape and role."""
    return Counter(trained_tensors(workload))


def _model_tensors(workload: Workload) -> Iterator[TrainedTensor]:
    model = workload.model
    table = (model.embedding_params // model.hidden_size, model.hidden_size)
    inside = sum(count * model.layer_params(kind) for kind, count in model.kinds.items())
    yield TrainedTensor(table, "embedding")
    for kind in model.layers:
        yield from _layer_tensors(model, kind)
    if model.position_params:
        positions = model.position_params // model.hidden_size
        yield TrainedTensor((positions, model.hidden_size), "embedding")
    outside = model.embedding_params + model.position_params + model.head_params
    yield TrainedTensor((model.num_params - inside - outside,), "vector")
    if not model.head_params:
        return
    bias = model.vocab_size if model.head_bias else 0
    if model.head_params > bias:
        yield TrainedTensor(table)
    if bias:
        yield TrainedTensor((bias,), "vector")


def _layer_tensors(model: ModelSpec, kind: LayerKind) -> Iterator[TrainedTensor]:
    """Matrices with their biases, then norms; of a traced model what is no matrix is one."""
    matrices = model.linears(kind)
    for matrix in matrices:
        yield TrainedTensor((matrix.out_features, matrix.in_features))
        if matrix.bias:
            yield TrainedTensor((matrix.out_features,), "vector")
    if kind.routed and model.experts is not None:
        yield from _expert_tensors(model.experts, model.hidden_size)
    known = sum(matrix.num_params for matrix in matrices) + model.expert_params(kind)
    rest = model.layer_params(kind) - known
    sizes = model.layer_norm_sizes
    for size in sizes if sum(sizes) == rest else (rest,):
        yield TrainedTensor((size,), "vector")


def _expert_tensors(experts: ExpertsSpec, hidden_size: int) -> Iterator[TrainedTensor]:
    """The router, and each matrix of all experts as one tensor; gpt-oss has them transposed."""
    count = experts.num_experts
    for name, elements in experts.router_tensors(hidden_size).items():
        is_bias = name.endswith("bias")
        shape = (count,) if is_bias else (count, elements // count)
        yield TrainedTensor(shape, "vector" if is_bias else "weight")
    for name, elements in experts.expert_tensors(hidden_size).items():
        if name.endswith("bias"):
            yield TrainedTensor((count, elements // count), "vector")
            continue
        sides = (elements // count // hidden_size, hidden_size)
        turned = name.endswith("down_proj") != experts.biased
        yield TrainedTensor((count, *(sides[::-1] if turned else sides)))


def _adapter_tensors(workload: Workload) -> Iterator[TrainedTensor]:
    adapter = workload.recipe.adapter
    assert adapter is not None
    for kind in workload.model.layers:
        for matrix in workload.adapted(kind):
            yield TrainedTensor((adapter.rank, matrix.in_features))
            yield TrainedTensor((matrix.out_features, adapter.rank))
            if adapter.dora:
                yield TrainedTensor((matrix.out_features,))
