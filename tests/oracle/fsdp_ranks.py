"""What each of two gloo ranks or of four allocates while FSDP2 trains small models on the CPU.

python -m torch.distributed.run ... -m tests.oracle.fsdp_ranks CASES.json FOLDER
"""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch.distributed.fsdp._fully_shard import _fsdp_init as fully_shard_calls
from torch.distributed.fsdp._fully_shard import _fsdp_param as fsdp_param
from torch.utils._python_dispatch import _disable_current_modes

from launcher.compat.optimizers import compiled_replacements
from launcher.compat.replacement import Replacement, replaced
from launcher.rehearsal.tracer import Tracer
from launcher.training import fully_sharded
from launcher.training.fully_sharded import reduce_between_copies, shard
from launcher.training.model_building import build_model, cast_trainable
from launcher.training.optimizer import build_optimizer
from planner.plan.optimizer_presets import optimizers
from tests.oracle.gloo_ranks import forward, losses_as_on_cuda, set_up, trace_cases
from tests.oracle.zero_cases import ZeroCase

STEPS = 2
"""The first makes the optimizer's states."""
CPU = torch.device("cpu")


def traced_phases(case: ZeroCase, checkpoint: Path) -> dict[str, int]:
    """Bytes at the largest moment of each phase of the last step."""
    torch.manual_seed(0)
    model = loaded(case, checkpoint)
    tracer = Tracer()
    library = optimizers()[case.optimizer].library
    updates = compiled_replacements(on_cuda=False) if library == "torchao" else ()
    with tracer, losses_as_on_cuda(), resizing_followed(tracer), replaced(updates):
        with tracer.phase("load"), loaded_from_host():
            shard(case.plan, model, CPU)
        gc.collect()
        for constant in constants(model):
            tracer.assign(constant, "weights")
        trained = [x for x in model.parameters() if x.requires_grad]
        optimizer = build_optimizer(case.workload.settings.optimizer, model)
        for step in range(STEPS):
            last = step == STEPS - 1
            for micro_batch in range(case.steps):
                counts = last and micro_batch == case.steps - 1
                with tracer.phase("forward" if counts else None):
                    loss = forward(model, case)
                reduce_between_copies(case.plan, model, now=micro_batch == case.steps - 1)
                with tracer.phase("backward" if counts else None):
                    torch.autograd.backward(loss)
                del loss
            with tracer.phase("optimizer_step" if last else None):
                _norm = torch.nn.utils.clip_grad_norm_(trained, 1.0)
                optimizer.step()
            optimizer.zero_grad()
            del _norm
    return {name: sum(parts.values()) for name, parts in tracer.phases.items()}


def loaded(case: ZeroCase, checkpoint: Path) -> Any:
    """The model in host memory, as launcher/training/rank.py makes it."""
    plan = case.plan
    model = build_model(plan, checkpoint, CPU).train()
    set_up(case, model if plan.adapter is None else model.get_base_model())
    return model


def constants(model: Any) -> Iterator[torch.Tensor]:
    """Yield what bitsandbytes keeps beside packed weights; it is no parameter."""
    for module in model.modules():
        state = getattr(module, "quant_state", None)
        if state is not None:
            yield from (state.absmax, state.code, state.offset)
            yield from (state.state2.absmax, state.state2.code)


@contextmanager
def loaded_from_host() -> Iterator[None]:
    """On the CPU nothing moves to the device: it is copied here, and cast unseen before."""

    def moved(parameters: list[Any], buffers: list[Any], _device: torch.device) -> None:
        for tensor in (*parameters, *buffers):
            tensor.data = tensor.data.clone()

    def cast(*inputs: Any) -> None:
        with _disable_current_modes():
            cast_trainable(*inputs)

    with (
        patch.object(fully_shard_calls, "_move_states_to_device", moved),
        patch.object(fully_sharded, "cast_trainable", cast),
    ):
        yield


@contextmanager
def resizing_followed(tracer: Tracer) -> Iterator[None]:
    """FSDP frees what it has gathered, and gathers it again, without an operator."""

    def followed(function: Callable[[torch.Tensor], None]) -> Callable[[torch.Tensor], None]:
        def call(tensor: torch.Tensor) -> None:
            function(tensor)
            tracer.resized(tensor)

        return call

    names = ("alloc_storage", "free_storage")
    calls = [Replacement(fsdp_param, name, followed(getattr(fsdp_param, name))) for name in names]
    with replaced(calls):
        yield


if __name__ == "__main__":
    trace_cases(traced_phases, torch.distributed.init_process_group)
