"""Every parameter of a model by name and shape, in the model's order: the one list of them.

Optimizers read the shapes of what trains (planner/workload/trained_tensors.py); ZeRO reads where
each parameter is, since it is gathered, reduced and cut by that (planner/memory/zero_1_2.py and
zero_3.py).
"""

from collections.abc import Iterator
from math import prod
from typing import Literal

from msgspec import Struct
from msgspec.structs import force_setattr

from planner.models.expert_shape import CORRECTION, ExpertsSpec
from planner.models.layer_kinds import LayerKind
from planner.models.layered_shape import PerLayerInputsSpec
from planner.models.linear import Linear
from planner.models.model_spec import ModelSpec
from planner.models.recurrent_shape import OwnParameter
from planner.workload.settings_cache import TRAINED, cached_by_settings
from planner.workload.workload import Workload

Role = Literal["matrix", "weight", "embedding", "vector"]
"""What a parameter is. A matrix is the weight of an ``nn.Linear``, but for the head and routers. A
vector is a norm's weight or a bias, which does not decay; read: transformers/trainer.py at 5.23.0,
get_decay_parameter_names."""
EXPERTS = ".experts."
"""Part of a parameter's name between its layer and its expert matrix."""
TRANSPOSED = ("gpt2",)
"""Architectures whose matrices are (in, out): Conv1D; read: transformers/pytorch_utils.py at
5.23.0."""


def decays(role: Role) -> bool:
    """Return whether weight decay applies to parameters of this role."""
    return role != "vector"


class Sized(Struct, frozen=True):
    """One parameter. Its number of elements is read thousands of times and therefore stored."""

    name: str
    shape: tuple[int, ...]
    trains: bool
    role: Role = "weight"
    elements: int = 0

    def __post_init__(self) -> None:
        force_setattr(self, "elements", prod(self.shape))

    @property
    def decays(self) -> bool:
        """Whether weight decay applies to it."""
        return decays(self.role)

    @property
    def module(self) -> str:
        """Name of its module: a weight and its bias share one, and so do all experts of a layer."""
        place, experts, _ = self.name.partition(EXPERTS)
        return f"{place}{experts}" if experts else self.name.removesuffix(".bias")


class Parameters(Struct, frozen=True, kw_only=True):
    """A model's parameters, layer by layer."""

    before: tuple[Sized, ...]
    """Parameters before the first layer: the embeddings."""
    layers: tuple[tuple[Sized, ...], ...]
    after: tuple[Sized, ...]
    """Parameters after the last layer: the last norm and the head."""
    beside: tuple[Sized, ...]
    """Parameters of models of images and of sound, which no text passes."""

    def __iter__(self) -> Iterator[Sized]:
        yield from self.before
        for layer in self.layers:
            yield from layer
        yield from self.after
        yield from self.beside

    @property
    def optimizer_groups(self) -> tuple[tuple[Sized, ...], ...]:
        """Trained parameters in two groups: those that decay, then norms and biases, which do not.

        read: transformers/trainer.py at 5.23.0, create_optimizer.
        """
        trained = [each for each in self if each.trains]
        decayed = tuple(each for each in trained if each.decays)
        others = tuple(each for each in trained if not each.decays)
        return tuple(group for group in (decayed, others) if group)


@cached_by_settings(*TRAINED)
def parameters(workload: Workload) -> Parameters:
    """Return every parameter, a tied one once; quantized matrices are not parameters."""
    model, full = workload.model, workload.method == "full"
    return Parameters(
        before=tuple(_before(model, full)),
        layers=tuple(_layers(workload)),
        after=tuple(_after(workload, full)),
        beside=tuple(_beside(workload)),
    )


def _layers(workload: Workload) -> Iterator[tuple[Sized, ...]]:
    """Yield the parameters of each layer: those of its kind, with names of their own."""
    model = workload.model
    found = {kind: [*_layer(workload, kind)] for kind in model.kinds}
    for number, kind in enumerate(model.layers):
        place = f"layers.{number}."
        yield tuple(
            Sized(place + each.name, each.shape, each.trains, each.role) for each in found[kind]
        )


def _before(model: ModelSpec, full: bool) -> Iterator[Sized]:
    yield Sized("embed_tokens", _rows(model.embedding_params, model), full, "embedding")
    if model.position_params:
        yield Sized("embed_positions", _rows(model.position_params, model), full, "embedding")
    if model.embedding_norm:
        yield from _norm("embed_norm", model, full)


def _after(workload: Workload, full: bool) -> Iterator[Sized]:
    """Yield the last norm and the head; of a traced model all that is in no layer and no table."""
    model, outside = workload.model, workload.model.outside_linears
    if model.per_layer_inputs is not None:
        yield from _with_per_layer_inputs(workload, model.per_layer_inputs)
        return
    for number, matrix in enumerate(outside):
        is_adapted = matrix in workload.adapted_outside
        yield from _matrix(workload, matrix, f"outside.{number}.{matrix.key}", is_adapted)
    inside = sum(count * model.layer_params(kind) for kind, count in model.kinds.items())
    known = inside + sum(each.elements for each in _before(model, full)) + model.head_params
    known += sum(matrix.num_params for matrix in outside)
    known += sum(each.elements for each in _beside(workload))
    if workload.settings.quantization is not None:
        known += sum(matrix.weight_params for matrix in model.tower_linears if not matrix.whole)
    rest = model.num_params - known
    if rest == model.norm_params:
        yield from _norm("norm", model, full)
    elif rest:
        yield Sized("norm", (rest,), full, "vector")
    bias = model.vocab_size if model.head_bias else 0
    if model.head_params > bias:
        yield Sized("lm_head", _rows(model.head_params - bias, model), full)
    if bias:
        yield Sized("lm_head.bias", (bias,), full, "vector")


def _with_per_layer_inputs(workload: Workload, inputs: PerLayerInputsSpec) -> Iterator[Sized]:
    """Yield what comes after the layers of a model whose layers have inputs of their own."""
    model, full = workload.model, workload.method == "full"
    yield from _norm("norm", model, full)
    width = model.num_layers * inputs.size
    yield Sized("embed_tokens_per_layer", (inputs.vocab_size, width), full, "embedding")
    for matrix in model.outside_linears:
        is_adapted = matrix in workload.adapted_outside
        yield from _matrix(workload, matrix, matrix.key, is_adapted)
    yield Sized("per_layer_projection_norm", (inputs.size,), full, "vector")
    if not model.tied_embeddings:
        yield Sized("lm_head", _rows(model.head_params, model), full)


def _beside(workload: Workload) -> Iterator[Sized]:
    """Yield what models of images and of sound hold."""
    model = workload.model
    if model.beside is None:
        return
    for number, matrix in enumerate(model.tower_linears):
        yield from _matrix(workload, matrix, f"towers.{number}.{matrix.key}", is_adapted=False)
    for number, shape in enumerate(model.beside.own_shapes):
        yield Sized(f"towers.own.{number}", shape, workload.method == "full", "vector")


def _rows(elements: int, model: ModelSpec) -> tuple[int, ...]:
    """Return the shape of a table of vectors of the hidden size, or a flat one where a traced model
    has other vectors."""
    rows, rest = divmod(elements, model.hidden_size)
    return (elements,) if rest else (rows, model.hidden_size)


def _norm(name: str, model: ModelSpec, full: bool) -> Iterator[Sized]:
    yield Sized(name, (model.hidden_size,), full, "vector")
    if model.norm_bias:
        yield Sized(f"{name}.bias", (model.hidden_size,), full, "vector")


def _layer(workload: Workload, kind: LayerKind) -> Iterator[Sized]:
    """Yield matrices with their biases and adapters, then norms; what is not a matrix in a traced
    model is one vector."""
    model, full = workload.model, workload.method == "full"
    adapted = workload.adapted(kind)
    matrices = model.linears(kind)
    for matrix in matrices:
        yield from _matrix(workload, matrix, matrix.key, matrix in adapted)
    if kind.routed and model.experts is not None:
        packed = {each.name for each in workload.packed_experts(kind)}
        for sized in _experts(model.experts, model.hidden_size, full):
            if sized.name not in packed:
                yield sized
        for matrix in workload.adapted_experts(kind):
            yield from _expert_adapters(workload, matrix, model.experts.num_experts)
    known = sum(matrix.num_params for matrix in matrices) + model.expert_params(kind)
    rest = model.layer_params(kind) - known
    found = model.own_parameters(kind)
    if sum(each.elements for each in found) != rest:
        found = (OwnParameter((rest,)),) if rest else ()
    for number, each in enumerate(found):
        role: Role = "weight" if each.decays else "vector"
        yield Sized(f"norms.{number}", each.shape, full, role)


def _matrix(workload: Workload, matrix: Linear, name: str, is_adapted: bool) -> Iterator[Sized]:
    """Yield one matrix unless it is packed or another's, its bias and its adapter."""
    full = workload.method == "full"
    if not matrix.tied and (workload.settings.quantization is None or matrix.whole):
        shape = _shape(workload, matrix)
        transposed = workload.model.model_type in TRANSPOSED
        yield Sized(name, shape[::-1] if transposed else shape, full, _role_of(transposed))
    if matrix.bias:
        yield Sized(f"{name}.bias", _shape(workload, matrix)[:1], full, "vector")
    if is_adapted:
        yield from _adapter(workload, matrix, name)


def _shape(workload: Workload, matrix: Linear) -> tuple[int, int]:
    """Return the rows and columns that one rank has of a matrix."""
    if workload.tensor_ranks > 1:
        from planner.workload.tensor_slice import CutLinear  # only layers that are cut need it

        if isinstance(matrix, CutLinear):
            return matrix.shape
    return matrix.out_features, matrix.in_features


def _role_of(transposed: bool) -> Role:
    return "weight" if transposed else "matrix"


def _adapter(workload: Workload, matrix: Linear, name: str) -> Iterator[Sized]:
    adapter = workload.settings.adapter
    assert adapter is not None
    if adapter.vera:
        yield Sized(f"{name}.vera_lambda_b", (matrix.out_features,), True)
        yield Sized(f"{name}.vera_lambda_d", (adapter.rank,), True)
        return
    yield Sized(f"{name}.lora_A", (adapter.rank, matrix.in_features), True, "matrix")
    yield Sized(f"{name}.lora_B", (matrix.out_features, adapter.rank), True, "matrix")
    if adapter.dora:
        yield Sized(f"{name}.magnitude", (matrix.out_features,), True)


def _expert_adapters(workload: Workload, matrix: Linear, num_experts: int) -> Iterator[Sized]:
    """Yield the adapters of one matrix of all experts: the rows of A are one expert's after
    another's, and so are the columns of B."""
    adapter = workload.settings.adapter
    assert adapter is not None
    ranks = num_experts * adapter.rank
    yield Sized(f"{matrix.name}.lora_A", (ranks, matrix.in_features), True, "matrix")
    yield Sized(f"{matrix.name}.lora_B", (matrix.out_features, ranks), True, "matrix")


def _experts(experts: ExpertsSpec, hidden_size: int, full: bool) -> Iterator[Sized]:
    """Yield the router, and each matrix of all experts as one tensor; gpt-oss and Llama 4 have
    them transposed."""
    count = experts.num_experts
    for name, elements in experts.router_tensors(hidden_size).items():
        is_bias = name.endswith("bias")
        shape = (count,) if is_bias else (count, elements // count)
        trains = full and name != CORRECTION
        yield Sized(name, shape, trains, "vector" if is_bias else "weight")
    for name, elements in experts.expert_tensors(hidden_size).items():
        if name.endswith("bias"):
            yield Sized(name, (count, elements // count), full, "vector")
            continue
        outside = experts.width(hidden_size)
        sides = (elements // count // outside, outside)
        turned = name.endswith("down_proj") != experts.stored_turned
        yield Sized(name, (count, *(sides[::-1] if turned else sides)), full)
