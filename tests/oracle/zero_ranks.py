"""What each of two gloo ranks allocates while DeepSpeed trains small models on the CPU.

python -m torch.distributed.run ... -m tests.oracle.zero_ranks CASES.json FOLDER
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import deepspeed
import torch
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_map_only
from transformers import AutoModelForCausalLM
from transformers.core_model_loading import WeightConverter
from transformers.integrations import HfDeepSpeedConfig

from launcher.compat.deepspeed import SharedAttention, form_sequence_groups, gathered_weights
from launcher.rehearsal.tracer import Tracer
from launcher.training.deepspeed_config import deepspeed_config
from launcher.training.model_building import base_dtype
from launcher.training.tiled_mlp import tile_mlps
from tests.oracle.gloo_ranks import forward, losses_as_on_cuda, optimizer_of, set_up, trace_cases
from tests.oracle.small_models import build, prepare
from tests.oracle.zero_cases import ZeroCase

STEPS = 3
"""The first makes the optimizer's states, the second records ZeRO-3's order of modules."""


def traced_phases(case: ZeroCase, checkpoint: Path) -> dict[str, int]:
    """Bytes at the largest moment of the load, and of each phase of the last step."""
    torch.manual_seed(0)
    if case.sequence_ranks > 1:
        share(case.sequence_ranks)
    tracer = Tracer({torch.ops.aten.set_.source_Storage: mapped})
    with tracer, losses_as_on_cuda():
        engine = engine_of(case, tracer, checkpoint)
        for step in range(STEPS):
            last = step == STEPS - 1
            for micro_batch in range(case.steps):
                at_boundary = micro_batch == case.steps - 1
                engine.set_gradient_accumulation_boundary(is_boundary=at_boundary)
                counts = last and at_boundary
                with tracer.phase("forward" if counts else None):
                    loss = forward(engine, case)
                with tracer.phase("backward" if counts else None):
                    engine.backward(loss)
                del loss
            with tracer.phase("optimizer_step" if last else None):
                engine.step()
        gc.collect()
        with tracer.phase("save"):
            gather_to_save(engine, case)
    engine.destroy()
    return {name: sum(parts.values()) for name, parts in tracer.phases.items()}


@cache
def share(ranks: int) -> SharedAttention:
    """As launcher/training/batches/shared_sequences.py."""
    form_sequence_groups(ranks)
    return SharedAttention("sdpa")


def gather_to_save(engine: Any, case: ZeroCase) -> None:
    """As launcher/training/saving.py; what it takes to host memory is not counted here."""
    if case.layout.zero_stage == 3:
        with patch.object(torch.Tensor, "cpu", lambda _: None):
            gathered_weights(engine, with_frozen=case.method == "full")


def mapped(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: Any) -> Any:
    """A tensor of a checkpoint's file is on the host."""
    result = func(*args, **kwargs)
    tracer.made_on_host(result)
    return result


def loaded(case: ZeroCase, tracer: Tracer, checkpoint: Path) -> Any:
    """Under ZeRO-3 as transformers loads a checkpoint, a parameter at a time into its slices."""
    if case.strategy != "zero3":
        return build(case.workload.model)
    sharding = HfDeepSpeedConfig(deepspeed_config(case.plan))
    with tracer.phase("load"), stacked_on_host(tracer):
        model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=base_dtype(case.plan))
    del sharding
    return model


@contextmanager
def stacked_on_host(tracer: Tracer) -> Iterator[None]:
    """The first rank stacks experts in host memory: transformers/integrations/deepspeed.py,
    _apply_weight_conversions_to_state_dict."""
    convert = WeightConverter.convert

    def untraced(*args: Any, **kwargs: Any) -> Any:
        with _disable_current_modes():
            stacked = convert(*args, **kwargs)
        tree_map_only(torch.Tensor, tracer.made_on_host, stacked)
        return stacked

    with patch.object(WeightConverter, "convert", untraced):
        yield


def engine_of(case: ZeroCase, tracer: Tracer, checkpoint: Path) -> Any:
    work, plan = case.workload, case.plan
    model = loaded(case, tracer, checkpoint)
    load_bytes = sum(tracer.phases.get("load", {}).values())
    model = prepare(model, work, zero_stage=case.layout.zero_stage).train()
    base = model.get_base_model() if work.settings.adapter is not None else model
    set_up(case, base)
    if case.tiled_mlp:
        tile_mlps(base)
    with tracer.phase("load"):
        engine, *_ = deepspeed.initialize(
            model=model, optimizer=optimizer_of(model), config=deepspeed_config(plan)
        )
    if sum(tracer.phases["load"].values()) < load_bytes:
        tracer.phases["load"] = {"weights": load_bytes}
    del model
    gc.collect()
    return engine


def join(backend: str) -> None:
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(backend)


if __name__ == "__main__":
    trace_cases(traced_phases, join)
