"""``launch plan.yaml --rehearse``: a step of a plan, without data and without weights.

Without a GPU the step is traced on fake tensors: nothing is computed, and only sizes are known.
With a GPU, a few real steps are measured if one GPU shows what a rank of the plan takes.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import transformers

from launcher.compat.bitsandbytes import make_shared_tables
from launcher.compat.deepspeed import zero_3_linear
from launcher.compat.torch import fake_tensors
from launcher.rehearsal.engine import MakeEngine, plain_engine
from launcher.rehearsal.fake_ranks import among_fake_ranks
from launcher.rehearsal.operator_rules import CUDA_RULES, FAKE_RULES
from launcher.rehearsal.patched_functions import replaced_functions
from launcher.rehearsal.phases import Phases, cuts_layers, random_weights
from launcher.rehearsal.step import rehearse_step
from launcher.rehearsal.table import Comparison, largest_phase, show
from launcher.rehearsal.tracer import Tracer
from planner.plan.optimizer_presets import optimizers
from planner.plan.schema import Plan
from planner.plan.vocabulary import Strategy

NOT_TRACED: dict[Strategy, tuple[str, ...]] = {
    "single": (),
    "ddp": ("communication",),
    "zero1": ("communication", "optimizer_states", "gradients"),
    "zero2": ("communication", "optimizer_states", "gradients"),
    "zero3": ("communication", "optimizer_states", "gradients", "weights", "adapters"),
    "tensor": (),
    "fsdp": ("communication", "optimizer_states", "gradients", "weights", "adapters"),
}
"""Parts of memory that ranks share or send: predicted, and left out of the sums."""

SHARDED_PHASES = ("load", "forward", "backward")
"""Phases that a trace shows where states are sharded: the step and gathering are the library's."""
OF_PARTS = (*SHARDED_PHASES, "optimizer_step")
"""Phases that it shows where layers are cut: a rank updates its parts alone."""

MEASURED_STEPS = 3


def rehearse(plan: Plan, *, as_json: bool) -> None:
    """Rehearse a step and print the comparison, as a table or as JSON."""
    with quiet_libraries():
        comparison = compare(plan)
    show(plan, comparison, as_json=as_json)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Silence the libraries' advice, which is about training, inside the block."""
    transformers.logging.set_verbosity_error()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def compare(plan: Plan) -> Comparison:
    """Return the plan's prediction beside what a step takes here."""
    left_out = left_out_of(plan)
    if can_be_measured(plan) and torch.cuda.is_available():
        from launcher.rehearsal.meter import measured

        predicted = largest_phase(predicted_without(plan, left_out))
        return Comparison("measured", predicted, measured(plan, MEASURED_STEPS), left_out)
    predicted = largest_phase(traced_phases(plan, predicted_without(plan, left_out)))
    observed = traced_phases(plan, traced(plan).phases)
    return Comparison("traced", predicted, largest_phase(observed), left_out)


def can_be_measured(plan: Plan) -> bool:
    """Return whether one GPU shows what a rank of the plan takes: it cannot show a shard."""
    alone = plan.parallel.world_size == 1
    return plan.hardware.device == "cuda" and (alone or not plan.parallel.is_sharded)


def left_out_of(plan: Plan) -> tuple[str, ...]:
    """Return the parts of memory that the plan predicts and one process cannot show."""
    if plan.parallel.world_size == 1:
        return ()
    return NOT_TRACED[plan.parallel.strategy]


def predicted_without(plan: Plan, left_out: tuple[str, ...]) -> Phases:
    """Return the prediction for random weights, without the parts that are left out.

    Bytes by phase and part, at the largest moment of the remaining parts.
    """
    unshared = plan.prediction.unshared if left_out else {}
    return {
        phase: {
            part: size
            for part, size in {**parts, **unshared.get(phase, {})}.items()
            if part not in left_out
        }
        for phase, parts in random_weights(plan).items()
    }


def traced_phases(plan: Plan, phases: Phases) -> Phases:
    """Return the phases that a trace of the plan shows."""
    known = tuple(phases)
    if plan.parallel.is_sharded:
        known = OF_PARTS if cuts_layers(plan) else SHARDED_PHASES
    return {phase: parts for phase, parts in phases.items() if phase in known and parts}


def traced(plan: Plan) -> Tracer:
    """Trace a step on fake tensors of the CPU, also for a plan for CUDA."""
    tracer = Tracer(rules_of(plan), left_out=left_out_of(plan))
    trace_step(plan, tracer)
    return tracer


def rules_of(plan: Plan) -> Any:
    """Return the rules of a trace of the plan, by operator."""
    return CUDA_RULES if plan.hardware.device == "cuda" else FAKE_RULES


def trace_step(
    plan: Plan,
    tracer: Tracer,
    *,
    make_engine: MakeEngine = plain_engine,
    prepare: Callable[[Any], None] | None = None,
) -> None:
    """Trace a step; ``prepare`` is called with the base model before it has storages.

    A build of PyTorch without CUDA has no tensors of another device that it could train.
    """
    make_shared_tables()
    on_cuda = plan.hardware.device == "cuda"
    functions = replaced_functions(
        on_cuda=on_cuda,
        packing=plan.batch.packing,
        optimizer_library=optimizers()[plan.optimizer.name].library,
    )
    linear = zero_3_linear() if plan.parallel.zero_stage == 3 else nullcontext()
    # the whole gradient of a table that is cut comes from a micro-batch alone
    follows = cuts_layers(plan) and plan.batch.gradient_accumulation_steps > 1
    with functions, linear, among_fake_ranks(plan), fake_tensors(), tracer:
        rehearse_step(
            plan,
            torch.device("cpu"),
            tracer,
            steps=2 if follows else 1,
            make_engine=make_engine,
            prepare=prepare,
        )
