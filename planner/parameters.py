"""Every parameter of a model by name and size, in the order in which its modules run.

Names are those of planner/decoder.py, sizes are found by running one layer of each kind.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from planner.model import LayerKind
from planner.model_pass import ModelPass
from planner.numerics import numerics
from planner.recipe import Batch, Workload
from planner.traced_model import TracedSpec


@dataclass(frozen=True, slots=True)
class Sized:
    """One parameter."""

    name: str
    elements: int
    trains: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """A model's parameters, layer by layer."""

    before: tuple[Sized, ...]
    layers: tuple[tuple[Sized, ...], ...]
    after: tuple[Sized, ...]

    def __iter__(self) -> Iterator[Sized]:
        yield from self.before
        for layer in self.layers:
            yield from layer
        yield from self.after

    @property
    def optimizer_groups(self) -> tuple[tuple[Sized, ...], ...]:
        """What trains: matrices, which decay, then norms and biases, which do not.

        read: transformers/trainer.py at 5.23.0, create_optimizer.
        """
        trained = [each for each in self if each.trains]
        decayed = tuple(each for each in trained if _decays(each.name))
        others = tuple(each for each in trained if not _decays(each.name))
        return tuple(group for group in (decayed, others) if group)


def _decays(name: str) -> bool:
    return "norm" not in name and not name.endswith(".bias")


@cache
def parameters(workload: Workload) -> Parameters:
    """Of an unquantized model all; of a quantized one all but the packed matrices."""
    model = workload.model
    if isinstance(model, TracedSpec):
        return _counted(workload, model)
    kinds = list(model.kinds)
    run = ModelPass(
        workload,
        Batch(micro_batch_size=1, sequence_length=2),
        numerics(method=workload.method, compute=workload.compute, zero_stage=1),
        layers=kinds,
        checkpointing=False,
        sink="keep",
    )
    found = [Sized(name, x.elements, x.trains) for name, x in run.weights.items()]
    return Parameters(
        before=tuple(each for each in found if each.name == "embed_tokens"),
        layers=tuple(
            _layer(found, kinds.index(kind), number) for number, kind in enumerate(model.layers)
        ),
        after=tuple(each for each in found if each.name in ("norm", "lm_head")),
    )


def _counted(workload: Workload, model: TracedSpec) -> Parameters:
    """Of a model that is traced: its matrices, and what else a layer has as if it were one."""
    full = workload.method == "full"
    head = (Sized("lm_head", model.head_params, full),) if model.head_params else ()
    return Parameters(
        before=(Sized("embed_tokens", model.embedding_params, full),),
        layers=tuple(
            tuple(_counted_layer(workload, kind, f"layers.{number}"))
            for number, kind in enumerate(model.layers)
        ),
        after=head,
    )


def _counted_layer(workload: Workload, kind: LayerKind, place: str) -> Iterator[Sized]:
    full, adapter = workload.method == "full", workload.recipe.adapter
    adapted = workload.adapted(kind)
    linears = workload.model.linears(kind)
    for matrix in linears:
        name = f"{place}.{matrix.name}"
        if workload.recipe.quantization is None:
            yield Sized(name, matrix.num_params, full)
        if matrix in adapted and adapter is not None:
            yield Sized(f"{name}.lora_A", adapter.rank * matrix.in_features, True)
            yield Sized(f"{name}.lora_B", adapter.rank * matrix.out_features, True)
    rest = workload.model.layer_params(kind) - sum(matrix.num_params for matrix in linears)
    if rest:
        yield Sized(f"{place}.norms", rest, full)


def _layer(found: list[Sized], run: int, number: int) -> tuple[Sized, ...]:
    """The parameters of a layer that was run, named as the layer of that number."""
    prefix = f"layers.{run}."
    return tuple(
        Sized(f"layers.{number}.{each.name.removeprefix(prefix)}", each.elements, each.trains)
        for each in found
        if each.name.startswith(prefix)
    )
