"""What each of two gloo ranks allocates while transformers' tensor parallelism trains small models
on the CPU.

python -m torch.distributed.run ... -m tests.oracle.tensor_ranks CASES.json FOLDER
"""

import gc
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.utils._python_dispatch import _disable_current_modes

from launcher.rehearsal.tracer import Tracer
from launcher.training.model_building import build_model, cast_trainable
from launcher.training.optimizer import build_optimizer
from tests.oracle.gloo_ranks import forward, losses_as_on_cuda, set_up, trace_cases
from tests.oracle.zero_cases import ZeroCase

STEPS = 2
"""The first makes the optimizer's states."""
CPU = torch.device("cpu")
COLLECTIVES = torch.ops._c10d_functional


def waited_for(_tracer: Tracer, operator: Any, args: Any, kwargs: Any) -> torch.Tensor:
    """Return a collective's result in a tensor that gloo's threads do not hold a while longer."""
    with _disable_current_modes():
        sent, *rest = args
        result: torch.Tensor = COLLECTIVES.wait_tensor(operator(sent.clone(), *rest, **kwargs))
        return result.clone()


WITHOUT_GLOO = {
    COLLECTIVES.all_reduce.default: waited_for,
    COLLECTIVES.all_gather_into_tensor.default: waited_for,
}


def traced_phases(case: ZeroCase, checkpoint: Path) -> dict[str, int]:
    """Bytes at the largest moment of each phase of the last step."""
    torch.manual_seed(0)
    plan = case.plan
    model = build_model(plan, checkpoint, CPU).train()
    cast_trainable(model, plan.kept_trainable)
    set_up(case, model if plan.adapter is None else model.get_base_model())
    for parameter in model.parameters():  # what is read on the CPU is a view of the file
        if isinstance(parameter.data, DTensor):
            parameter._local_tensor = parameter._local_tensor.clone()
    tracer = Tracer(WITHOUT_GLOO)
    gc.collect()
    with tracer, losses_as_on_cuda():
        for parameter in model.parameters():
            tracer.assign(local(parameter.data), "weights")
        with tracer.phase("load"):
            pass
        optimizer = build_optimizer(case.workload.settings.optimizer, model)
        for step in range(STEPS):
            last = step == STEPS - 1
            for micro_batch in range(case.steps):
                counts = last and micro_batch == case.steps - 1
                with tracer.phase("forward" if counts else None), autocast(case):
                    loss = forward(model, case)
                with tracer.phase("backward" if counts else None):
                    torch.autograd.backward(loss)
                del loss
            with tracer.phase("optimizer_step" if last else None):
                _norm = clip(model)
                optimizer.step()
            optimizer.zero_grad()
            del _norm
    return {name: sum(parts.values()) for name, parts in tracer.phases.items()}


def local(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def autocast(case: ZeroCase) -> Any:
    return torch.autocast("cpu", torch.bfloat16, enabled=case.plan.precision.autocast)


def clip(model: Any) -> torch.Tensor:
    """transformers/trainer.py at 5.23.0, _mixed_mesh_grad_norm."""
    trained = [x for x in model.parameters() if x.grad is not None]
    groups = [[x for x in trained if isinstance(x.grad, DTensor) is cut] for cut in (True, False)]
    norms = [get_total_norm([x.grad for x in group]) for group in groups if group]
    whole = [norm.full_tensor() if isinstance(norm, DTensor) else norm for norm in norms]
    total: torch.Tensor = torch.linalg.vector_norm(torch.stack(whole))
    for group in groups:
        clip_grads_with_norm_(group, 1.0, total)
    return total


if __name__ == "__main__":
    trace_cases(traced_phases, torch.distributed.init_process_group)
