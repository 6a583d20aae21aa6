"""``launch plan.yaml --rehearse``: a step of this very plan without data and without weights.

Without a GPU the step is traced on fake tensors; nothing is computed, and nothing but the
sizes is known. With one, for a plan that is for one, a few real steps are measured.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
import transformers
from rich.console import Console

from launcher.compat.bitsandbytes import make_shared_tables
from launcher.compat.deepspeed import zero_3_linear
from launcher.compat.torch import fake_tensors
from launcher.rehearsal.operator_rules import CUDA_RULES, FAKE_RULES
from launcher.rehearsal.patched_functions import replaced_functions
from launcher.rehearsal.step import rehearse_step
from launcher.rehearsal.table import Comparison, as_document, largest_phase, print_comparison
from launcher.rehearsal.tracer import Phases, Tracer
from planner.plan.schema import Plan
from planner.plan.vocabulary import ZeroStage

NOT_TRACED: dict[ZeroStage, tuple[str, ...]] = {
    0: ("communication",),
    1: ("communication", "optimizer_states", "gradients"),
    2: ("communication", "optimizer_states", "gradients"),
    3: ("communication", "optimizer_states", "gradients", "weights", "adapters"),
}
"""What several ranks share or send is not in one process: predicted, and left out of the sums."""

DEEPSPEED_PHASES = ("load", "forward", "backward")
"""Its optimizer step and its gathering at the end are its own, so they are not traced."""

MEASURED_STEPS = 3


def rehearse(plan: Plan, *, as_json: bool) -> None:
    """Rehearse and print."""
    with quiet_libraries():
        comparison = compare(plan)
    if as_json:
        print(as_document(comparison))
    else:
        print_comparison(Console(highlight=False), plan, comparison)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Their advice is for training; here it would stand between a person and the figures."""
    transformers.logging.set_verbosity_error()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def compare(plan: Plan) -> Comparison:
    """The plan's prediction beside what a step takes here."""
    left_out = left_out_of(plan)
    if can_be_measured(plan) and torch.cuda.is_available():
        from launcher.rehearsal.meter import measured

        predicted = largest_phase(without(plan, left_out))
        return Comparison("measured", predicted, measured(plan, MEASURED_STEPS), left_out)
    predicted = largest_phase(traced_phases(plan, without(plan, left_out)))
    found = traced_phases(plan, traced(plan).phases)
    return Comparison("traced", predicted, largest_phase(found), left_out)


def can_be_measured(plan: Plan) -> bool:
    """Whether one GPU shows what a rank of the plan takes: a shard of several it cannot."""
    alone = plan.parallel.world_size == 1
    return plan.hardware.device == "cuda" and (alone or plan.parallel.zero_stage == 0)


def left_out_of(plan: Plan) -> tuple[str, ...]:
    """Parts that the plan predicts and a trace of one process cannot show."""
    if plan.parallel.world_size == 1:
        return ()
    return NOT_TRACED[plan.parallel.zero_stage]


def random_weights(plan: Plan) -> Phases:
    """The prediction where no files are read, and so no experts of a checkpoint are stacked."""
    load = plan.prediction.load_without_files
    return plan.prediction.phases | ({"load": load} if load else {})


def without(plan: Plan, left_out: tuple[str, ...]) -> Phases:
    """The prediction for random weights, without parts that one process cannot show, at the
    largest moment of what is left."""
    own = plan.prediction.unshared if left_out else {}
    return {
        phase: {
            part: size
            for part, size in {**parts, **own.get(phase, {})}.items()
            if part not in left_out
        }
        for phase, parts in random_weights(plan).items()
    }


def traced_phases(plan: Plan, phases: Phases) -> Phases:
    """Those that a trace shows."""
    known = DEEPSPEED_PHASES if plan.parallel.zero_stage else tuple(phases)
    return {phase: parts for phase, parts in phases.items() if phase in known and parts}


def traced(plan: Plan) -> Tracer:
    """A step on fake tensors of the CPU: a build of torch without CUDA has no others to train."""
    on_cuda = plan.hardware.device == "cuda"
    tracer = Tracer(CUDA_RULES if on_cuda else FAKE_RULES, left_out=left_out_of(plan))
    make_shared_tables()
    functions = replaced_functions(on_cuda=on_cuda, packing=plan.batch.packing)
    linear = zero_3_linear() if plan.parallel.zero_stage == 3 else nullcontext()
    with functions, linear, fake_tensors(), tracer:
        rehearse_step(plan, torch.device("cpu"), tracer)
    return tracer
