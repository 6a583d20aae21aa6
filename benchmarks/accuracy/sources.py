"""What a source's training loop does: its conventions, declared as data, never fitted."""

from functools import cache
from pathlib import Path

from planner.numerics import GroupedHeads, Numerics
from planner.plan import Loss, Method, OptimizerName
from planner.spec import Spec, read_spec

DIRECTORY = Path(__file__).parent / "sources"


class MethodConventions(Spec):
    """Bytes per element; see :class:`planner.numerics.Numerics`."""

    frozen: int
    outside: int
    trainable: int
    gradient: int
    master: int
    residual: int
    autocast: bool


class SourceConventions(Spec):
    """How one source trains and what it read, with where that was seen."""

    name: str
    """Prefix of the ids of its rows."""
    seen_in: str
    models: dict[str, str]
    """The source's name of a model to the preset of the same shape."""
    methods: dict[Method, MethodConventions]
    loss: Loss
    keeps_logits: bool
    grouped_heads: GroupedHeads
    dropout: float
    optimizer: OptimizerName
    expandable_segments: bool

    def numerics(self, method: Method) -> Numerics:
        """The conventions as the memory model takes them; matrices are multiplied in 16 bit."""
        return Numerics(
            compute=2,
            keeps_logits=self.keeps_logits,
            grouped_heads=self.grouped_heads,
            **self.methods[method].model_dump(),
        )


@cache
def sources() -> dict[str, SourceConventions]:
    """Every declared source by its name."""
    found = [read_spec(SourceConventions, path) for path in sorted(DIRECTORY.glob("*.yaml"))]
    return {source.name: source for source in found}
