"""An evaluation's forward pass needs less than the training step that the plan was made for.

Its peak is not a part of the prediction: this is why it need not be.
"""

from typing import Any

import pytest
from msgspec import structs

pytest.importorskip("trl")

import torch

from launcher.compat.torch import fake_tensors
from launcher.rehearsal import step as rehearsal_step
from launcher.rehearsal.empty_model import build_rehearsal_model, packed_weights_made_whole
from launcher.rehearsal.operator_rules import CUDA_RULES
from launcher.rehearsal.patched_functions import replaced_functions
from launcher.rehearsal.phases import Phases
from launcher.rehearsal.rehearse import quiet_libraries, traced
from launcher.rehearsal.tracer import Tracer
from planner.plan.schema import Plan
from tests.launcher.planned import planned

CPU = torch.device("cpu")


def evaluated(plan: Plan) -> Phases:
    """As the trace of a step, but nothing is kept for a backward pass."""
    tracer = Tracer(CUDA_RULES, left_out=())
    with replaced_functions(on_cuda=True), packed_weights_made_whole(), fake_tensors(), tracer:
        model = build_rehearsal_model(plan, CPU, tracer)
        base = model.get_base_model() if plan.adapter is not None else model
        rehearsal_step._prepare(plan, model, base)
        model.eval()
        with torch.no_grad(), tracer.phase("forward"):
            rehearsal_step._forward(plan, model, base, CPU, tracer)
    return tracer.phases


def peak_bytes(phases: Phases) -> int:
    """Without the update: optimizer states are there before either."""
    return max(sum(phases[phase].values()) for phase in ("forward", "backward") if phase in phases)


@pytest.mark.parametrize("loss", ["fused", "standard"])
@pytest.mark.parametrize("method", ["qlora", "lora", "full"])
def test_an_evaluation_stays_below_a_training_step(method: Any, loss: str) -> None:
    """The closest case: training keeps no activations but the checkpoints either."""
    plan = planned(method=method, activation_checkpointing=True, micro_batch_size=2)
    plan = structs.replace(plan, loss=loss)
    with quiet_libraries():
        training, evaluation = peak_bytes(traced(plan).phases), peak_bytes(evaluated(plan))
    assert 0 < evaluation < training
    print(method, loss, f"{evaluation / training:.2f}")
