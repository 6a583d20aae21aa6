"""Why a step of a model cannot be traced, in a sentence that says where it fails and what to do.

The code of a class may not run in training, or only without what a plan asks for: a model that adds
to its embeddings in place cannot recompute activations, one that casts to the dtype of a matrix
cannot have it packed. Which of them it is comes from tracing the plan without each.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from traceback import walk_tb
from typing import NamedTuple

from msgspec import structs

from planner.base.errors import UserError
from planner.base.phrases import Joined, Phrase
from planner.plan.schema import Plan

LONGEST_REASON = 200
"""Characters of a library's message that are shown."""
MODELS = "transformers"
"""Package with the code of models."""


class Remedy(NamedTuple):
    """A plan that asks for less, and what is said if it can be traced."""

    plan: Plan
    cause: str
    options: str


def explained(plan: Plan, error: Exception, *, can_be_traced: Callable[[Plan], bool]) -> UserError:
    """Return why a plan cannot be traced, where tracing it has raised ``error``."""
    from launcher.compat.torch import NEEDS_VALUES  # a model that is only refused has no tensors

    failure = Joined(": ", [place_of(error), one_line(error)])
    for remedy in remedies(plan):
        if can_be_traced(remedy.plan):
            return UserError(
                Phrase(
                    "{cause} ({failure}). Choose {options}",
                    cause=remedy.cause,
                    failure=failure,
                    options=remedy.options,
                )
            )
    if isinstance(error, NEEDS_VALUES):
        cause = Phrase("its code asks for values of tensors, which a trace does not have")
    else:
        cause = Phrase("its code fails on texts alone")
    return UserError(
        Phrase(
            "{cause} ({failure}). Choose another model: no option changes that",
            cause=cause,
            failure=failure,
        )
    )


def remedies(plan: Plan) -> Iterator[Remedy]:
    """Yield the plan without what a class may not be able to do, the least left out first."""
    if plan.activation_checkpointing:
        cause = Phrase("its code cannot recompute activations")
        kept = structs.replace(plan, activation_checkpointing=False)
        yield Remedy(kept, cause, "--no-activation-checkpointing")
    if plan.quantization is None:
        return
    whole = structs.replace(plan, method="lora", quantization=None)
    yield Remedy(whole, Phrase("its code cannot multiply with packed matrices"), "--method lora")
    if plan.activation_checkpointing:
        cause = Phrase("its code can neither recompute activations nor have matrices packed")
        both = structs.replace(whole, activation_checkpointing=False)
        yield Remedy(both, cause, "--method lora --no-activation-checkpointing")


def place_of(error: Exception) -> str:
    """Return the innermost line of a model's code that an error went through, else its type."""
    found: str = type(error).__name__
    for frame, line in walk_tb(error.__traceback__):
        library, *_ = str(frame.f_globals.get("__name__")).split(".")
        if library == MODELS:
            owner = frame.f_locals.get("self")
            found = Phrase(
                "{name} in {library}, {file} line {line}",
                name=frame.f_code.co_name if owner is None else type(owner).__name__,
                library=library,
                file=Path(frame.f_code.co_filename).name,
                line=line,
            )
    return found


def one_line(error: Exception) -> str:
    """Return an error's message in one line; a key alone says nothing, so its type is named."""
    reason = " ".join(str(error).split())[:LONGEST_REASON].rstrip(" .")
    if not reason or isinstance(error, KeyError):
        return f"{type(error).__name__} {reason}".strip()
    return reason
