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
from planner.plan.schema import ParallelSection, Plan

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
    return UserError(
        Phrase(
            "its code fails in a trace, which has texts alone and sizes instead of values "
            "({failure}). Choose another model: no option changes that",
            failure=failure,
        )
    )


def remedies(plan: Plan) -> Iterator[Remedy]:
    """Yield the plan without what a class may not be able to do, the least left out first."""
    shorter = plan.batch.sequence_length // 2
    if shorter:
        batch = structs.replace(plan.batch, sequence_length=shorter)
        cause = Phrase(
            "its code does not take a length of {length:,}", length=plan.batch.sequence_length
        )
        yield Remedy(structs.replace(plan, batch=batch), cause, f"--sequence-length {shorter}")
    if plan.parallel.zero is not None and plan.precision.master is not None:
        cause = Phrase("its code mixes dtypes, which ZeRO's training in 16 bit does not cast")
        yield Remedy(_under_autocast(plan), cause, "--strategy ddp")
    if plan.activation_checkpointing:
        cause = Phrase("its code cannot recompute activations")
        kept = structs.replace(plan, activation_checkpointing=False)
        yield Remedy(kept, cause, "--no-activation-checkpointing")
    if plan.quantization is None:
        return
    whole = structs.replace(plan, method="lora", quantization=None)
    yield Remedy(whole, Phrase("its code cannot work on packed matrices"), "--method lora")
    if plan.activation_checkpointing:
        cause = Phrase("its code can neither recompute activations nor work on packed matrices")
        both = structs.replace(whole, activation_checkpointing=False)
        yield Remedy(both, cause, "--method lora --no-activation-checkpointing")


def _under_autocast(plan: Plan) -> Plan:
    """Return a plan of one process, whose trained parameters are their own masters."""
    alone = ParallelSection(
        strategy="single", zero_stage=0, num_nodes=1, gpus_per_node=1, world_size=1
    )
    master = plan.precision.master
    assert master is not None
    precision = structs.replace(plan.precision, trainable=master, master=None)
    samples = plan.batch.micro_batch_size * plan.batch.gradient_accumulation_steps
    batch = structs.replace(plan.batch, global_batch_size=samples)
    return structs.replace(plan, parallel=alone, precision=precision, batch=batch)


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
