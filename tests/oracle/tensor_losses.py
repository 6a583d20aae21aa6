"""How far each of two gloo ranks is from one process that trains the same, where layers are cut.

python -m torch.distributed.run ... -m tests.oracle.tensor_losses CASES.json FOLDER
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from launcher.training.model_building import build_model, cast_trainable
from tests.oracle.gloo_ranks import forward, set_up, trace_cases
from tests.oracle.tensor_ranks import CPU, clip
from tests.oracle.zero_cases import ZeroCase

STEPS = 2
RATE = 1.0
"""So high that the losses of a few steps tell a wrong gradient."""
BILLION = 10**9


def distances(case: ZeroCase, checkpoint: Path) -> dict[str, int]:
    """Largest relative distances of losses and of trained tensors, in parts per billion, and the
    number of tensors that ranks have whole and not alike."""
    losses, weights = trained(case, checkpoint)
    unlike = sum(not is_alike(weight) for weight in weights.values())
    of_one, expected = trained(replace(case, strategy="ddp"), checkpoint)
    assert weights.keys() == expected.keys()
    far = [abs(loss / one - 1) for loss, one in zip(losses, of_one, strict=True)]
    off = [
        float((weights[name] - each).abs().max() / each.abs().max())
        for name, each in expected.items()
    ]
    return {
        "loss": round(BILLION * max(far)),
        "weights": round(BILLION * max(off)),
        "unlike": unlike,
    }


def is_alike(tensor: torch.Tensor) -> bool:
    """Whether all ranks have the same."""
    of_first = tensor.clone()
    torch.distributed.broadcast(of_first, 0)
    return torch.equal(of_first, tensor)


def trained(case: ZeroCase, checkpoint: Path) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses of all micro-batches, and the whole of what has trained."""
    torch.manual_seed(0)
    model = build_model(case.plan, checkpoint, CPU).train()
    cast_trainable(model, case.plan.kept_trainable)
    set_up(case, model if case.plan.adapter is None else model.get_base_model())
    parameters = {name: x for name, x in model.named_parameters() if x.requires_grad}
    losses = []
    for _step in range(STEPS):
        for _micro_batch in range(case.steps):
            loss = forward(model, case)
            torch.autograd.backward(loss)
            losses.append(float(loss.detach()))
        clip(model)
        with torch.no_grad():
            for parameter in parameters.values():
                parameter -= RATE * parameter.grad
                parameter.grad = None
    return losses, {name: whole(parameter) for name, parameter in parameters.items()}


def whole(parameter: Any) -> torch.Tensor:
    found: torch.Tensor = parameter.detach()
    return found.full_tensor() if isinstance(found, DTensor) else found


if __name__ == "__main__":
    trace_cases(distances, torch.distributed.init_process_group)
