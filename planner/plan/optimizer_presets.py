"""Optimizers by transformers' names, as presets/optimizers.yaml describes them."""

from functools import cache
from typing import Literal

from planner.base.errors import InvalidRequestError, UnknownNameError
from planner.base.phrases import Phrase
from planner.base.preset_files import ROOT
from planner.base.strict_yaml import Spec, read_spec

OptimizerLibrary = Literal[
    "torch", "transformers", "bitsandbytes", "schedulefree", "optimi", "apollo_torch", "torchao"
]
"""Modules that have them."""


class OptimizerSpec(Spec):
    """One entry of presets/optimizers.yaml, whose head says what the fields mean."""

    name: str
    library: OptimizerLibrary
    class_name: str
    step: Literal[
        "fused",
        "adamw",
        "adafactor",
        "adagrad",
        "apollo",
        "compiled_4bit",
        "compiled_8bit",
        "rmsprop",
        "schedule_free",
        "sgd",
        "stable_adamw",
    ]
    states: int
    stacked: int = 1
    kept_in: Literal[
        "parameter",
        "fp32",
        "8bit",
        "factored",
        "compensated",
        "projected",
        "mapped_8bit",
        "mapped_4bit",
    ]
    counter: Literal["device", "host", "none"]
    paged: bool = False
    averages: bool = False
    decays: bool = True
    source: str

    @property
    def is_compiled(self) -> bool:
        """Return whether PyTorch compiles its update in the first step."""
        return self.library == "torchao"

    @property
    def tensor_shares(self) -> tuple[int, ...]:
        """Return the size of each tensor of states, in sizes of the parameter."""
        if not self.states:
            return ()
        return (self.stacked, *[1] * (self.states - self.stacked))


class OtherOptimizer(Spec):
    """An entry of presets/other_optimizers.yaml: names that no plan has, and what to take."""

    names: list[str]
    instead: str
    reason: str | None = None
    """Why they are refused; None where ``instead`` is the same optimizer."""
    source: str | None = None


class _Optimizers(Spec):
    optimizers: list[OptimizerSpec]


class _Others(Spec):
    others: list[OtherOptimizer]


@cache
def optimizers() -> dict[str, OptimizerSpec]:
    """Return every optimizer that a plan may have, by its name."""
    entries = read_spec(_Optimizers, ROOT / "optimizers.yaml").optimizers
    return {optimizer.name: optimizer for optimizer in entries}


@cache
def other_optimizers() -> dict[str, OtherOptimizer]:
    """Return the names of transformers that no plan has."""
    others = read_spec(_Others, ROOT / "other_optimizers.yaml").others
    return {name: other for other in others for name in other.names}


def optimizer_name(text: str) -> str:
    """Return the name that is spelt like this, in any case and with hyphens for underscores.

    Raises ``InvalidRequestError`` for one that transformers has and no plan, and
    ``UnknownNameError``, which suggests the nearest one, for all else.
    """
    wanted = text.lower().replace("-", "_")
    if wanted in optimizers():
        return wanted
    other = other_optimizers().get(wanted)
    if other is not None:
        if other.reason is None:
            return other.instead
        raise InvalidRequestError(
            Phrase(
                "optimizer {name} is refused: {reason}. Take {instead}",
                name=wanted,
                reason=Phrase(other.reason),
                instead=other.instead,
            )
        )
    raise UnknownNameError(Phrase("optimizer"), text, optimizers(), see="plan --list optimizers")
