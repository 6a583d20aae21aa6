"""Every parameter of a model by name and size, in the order in which its modules run.

Names are those of planner/decoder.py, sizes are found by running one layer of each kind.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache

from planner.model_pass import ModelPass
from planner.numerics import numerics
from planner.recipe import Batch, Workload


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
    kinds = list(model.kinds)
    run = ModelPass(
        workload,
        Batch(micro_batch_size=1, sequence_length=1),
        numerics(method=workload.method, compute=workload.compute, zero_stage=1),
        layers=kinds,
        checkpointing=False,
        sink="keep",
    )
    found = [Sized(name, x.elements, x.trains) for name, x in run.weights.items()]
    by_kind = [
        tuple(each for each in found if each.name.startswith(f"layers.{number}."))
        for number in range(len(kinds))
    ]
    outside = [each for each in found if not each.name.startswith("layers.")]
    return Parameters(
        before=tuple(_named(outside, ("embed_tokens",))),
        layers=tuple(by_kind[kinds.index(kind)] for kind in model.layers),
        after=tuple(each for each in outside if each.name != "embed_tokens"),
    )


def _named(found: Iterable[Sized], names: tuple[str, ...]) -> Iterator[Sized]:
    return (each for each in found if each.name in names)
