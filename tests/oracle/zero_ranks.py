"""What each of two gloo ranks allocates while DeepSpeed trains small models on the CPU.

python -m torch.distributed.run ... -m tests.oracle.zero_ranks CASES.json FOLDER
"""

import gc
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import deepspeed
import torch
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_flatten, tree_unflatten
from transformers import AutoModelForCausalLM
from transformers.integrations import HfDeepSpeedConfig
from trl.kernels import chunked_logprob
from trl.trainer import utils as trl_utils

from launcher.compat.deepspeed import gathered_weights
from launcher.rehearsal.tracer import Tracer
from launcher.training.deepspeed_config import deepspeed_config
from launcher.training.model_building import base_dtype
from launcher.training.planned_trainer import activation_checkpointing
from tests.oracle.small_models import build, prepare
from tests.oracle.zero_cases import SHAPE, ZeroCase

STEPS = 3
"""The first makes the optimizer's states, the second records ZeRO-3's order of modules."""

COLLECTIVES = (
    "reduce_scatter_tensor",
    "all_gather_into_tensor",
    "all_reduce",
    "all_gather",
    "broadcast",
    "all_gather_single",
    "reduce_scatter_single",
)


def main() -> None:
    cases, folder = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    torch.set_num_threads(1)
    leave_out_copies_of_gloo()
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed("gloo")
    checkpoint = folder / "checkpoint"
    if os.environ["RANK"] == "0":
        build(SHAPE).to(torch.bfloat16).save_pretrained(checkpoint)
    torch.distributed.barrier()
    found = [traced_phases(ZeroCase(**case), checkpoint) for case in cases]
    (folder / f"rank-{os.environ['RANK']}.json").write_text(json.dumps(found))
    torch.distributed.barrier()
    os._exit(0)  # gloo's threads may still wait under DeepSpeed


class _Done:
    """The handle of a collective that has been waited for."""

    def wait(self) -> None:
        """Nothing is under way."""


def leave_out_copies_of_gloo() -> None:
    """Its collectives copy what they send, and its threads hold what they were given a while
    longer (torch/csrc/distributed/c10d/ProcessGroupGloo.cpp at 2.13, runLoop); NCCL's do neither.
    """
    for name in COLLECTIVES:
        collective = getattr(torch.distributed, name)

        def untraced(*args: Any, _call: Any = collective, **kwargs: Any) -> _Done | None:
            waited_for = not kwargs.get("async_op", False)
            kwargs["async_op"] = False
            with _disable_current_modes(), torch.no_grad():
                given, structure = tree_flatten((args, kwargs))
                used = [x.clone() if isinstance(x, torch.Tensor) else x for x in given]
                copies, named = tree_unflatten(used, structure)
                _call(*copies, **named)
                for own, copy in reversed(list(zip(given, used, strict=True))):
                    if isinstance(own, torch.Tensor):  # an output may be a part of an input
                        own.copy_(copy)
            return None if waited_for else _Done()

        setattr(torch.distributed, name, untraced)


@contextmanager
def losses_as_on_cuda() -> Iterator[None]:
    """trl's Triton kernels work inside the tile of logits, their stand-ins copy it."""
    with patch.object(trl_utils, "_use_triton", lambda _device: True):
        for name in ("_forward_tile", "_backward_tile", "_addmm_fp32"):
            setattr(chunked_logprob, name, lambda *_args, **_kwargs: None)
        yield


def traced_phases(case: ZeroCase, checkpoint: Path) -> dict[str, int]:
    """Bytes at the largest moment of the load, and of each phase of the last step."""
    torch.manual_seed(0)
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
    with tracer.phase("load"):
        model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=base_dtype(case.plan))
    del sharding
    return model


def engine_of(case: ZeroCase, tracer: Tracer, checkpoint: Path) -> Any:
    work, plan = case.workload, case.plan
    model = loaded(case, tracer, checkpoint)
    load_bytes = sum(tracer.phases.get("load", {}).values())
    model = prepare(model, work, zero_stage=case.layout.zero_stage).train()
    base = model.get_base_model() if work.settings.adapter is not None else model
    checkpointing = activation_checkpointing(plan)
    if checkpointing["gradient_checkpointing"]:
        base.gradient_checkpointing_enable(checkpointing["gradient_checkpointing_kwargs"])
        base.enable_input_require_grads()
    if case.loss == "fused":
        trl_utils.add_fused_lm_head(base, outputs=("log_probs", "entropy", "is_top1"))
    with tracer.phase("load"):
        engine, *_ = deepspeed.initialize(
            model=model, optimizer=optimizer_of(model), config=deepspeed_config(plan)
        )
    if sum(tracer.phases["load"].values()) < load_bytes:
        tracer.phases["load"] = {"weights": load_bytes}
    del model, base
    gc.collect()
    return engine


def optimizer_of(model: Any) -> torch.optim.Optimizer:
    """transformers/trainer.py at 5.23.0, create_optimizer: norms and biases do not decay."""
    trained = [(name, x) for name, x in model.named_parameters() if x.requires_grad]
    decayed = [x for name, x in trained if "norm" not in name and not name.endswith("bias")]
    others = [x for name, x in trained if "norm" in name or name.endswith("bias")]
    return torch.optim.AdamW([{"params": decayed}, {"params": others}], lr=1e-4, fused=True)


def forward(engine: Any, case: ZeroCase) -> torch.Tensor:
    shape = (case.micro_batch_size, case.sequence_length)
    ids = torch.randint(1, case.workload.model.vocab_size, shape)
    mask = torch.ones_like(ids)
    mask[1:, -9:] = 0
    fused = {"fused_lm_head": True} if case.loss == "fused" else {}
    output = engine(
        input_ids=ids, attention_mask=mask, labels=ids.clone(), use_cache=False, **fused
    )
    loss: torch.Tensor = -output.log_probs.sum() / 10 if fused else output.loss
    return loss


if __name__ == "__main__":
    main()
