"""What the ranks of a traced run have in common: gloo as NCCL is, and a small model's step."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_flatten, tree_unflatten
from trl.kernels import chunked_logprob
from trl.trainer import utils as trl_utils

from launcher.training.planned_trainer import activation_checkpointing
from planner.models.model_spec import ModelSpec
from tests.oracle.small_models import build
from tests.oracle.zero_cases import ZeroCase

COLLECTIVES = (
    "reduce_scatter_tensor",
    "all_gather_into_tensor",
    "all_reduce",
    "all_gather",
    "broadcast",
    "all_gather_single",
    "reduce_scatter_single",
    "all_to_all_single",
)


def trace_cases(
    traced_phases: Callable[[ZeroCase, Path], dict[str, int]], join: Callable[[str], None]
) -> None:
    """Trace the cases of a file, and write what was found into the folder, as this program's two
    arguments say; ``join`` makes the process group of a backend."""
    cases, folder = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    torch.set_num_threads(1)
    leave_out_copies_of_gloo()
    join("gloo")
    run = [ZeroCase(**case) for case in cases]
    if os.environ["RANK"] == "0":
        for shape in {case.shape for case in run if not case.one_key}:
            build(shape).to(torch.bfloat16).save_pretrained(folder / _name(shape))
    torch.distributed.barrier()
    found = [traced_phases(case, folder / _name(case.shape)) for case in run]
    (folder / f"rank-{os.environ['RANK']}.json").write_text(json.dumps(found))
    torch.distributed.barrier()
    os._exit(0)  # gloo's threads may still wait under DeepSpeed


def _name(shape: ModelSpec) -> str:
    return f"{shape.model_type}-{shape.intermediate_size}"


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


def set_up(case: ZeroCase, base: Any) -> None:
    """Turn on what the case asks of a model without its adapters."""
    checkpointing = activation_checkpointing(case.plan)
    if checkpointing["gradient_checkpointing"]:
        base.gradient_checkpointing_enable(checkpointing["gradient_checkpointing_kwargs"])
        base.enable_input_require_grads()
    if case.loss == "fused":
        trl_utils.add_fused_lm_head(base, outputs=("log_probs", "entropy", "is_top1"))


def optimizer_of(model: Any) -> torch.optim.Optimizer:
    """transformers/trainer.py at 5.23.0, create_optimizer: norms and biases do not decay."""
    trained = [(name, x) for name, x in model.named_parameters() if x.requires_grad]
    decayed = [x for name, x in trained if "norm" not in name and not name.endswith("bias")]
    others = [x for name, x in trained if "norm" in name or name.endswith("bias")]
    return torch.optim.AdamW([{"params": decayed}, {"params": others}], lr=1e-4, fused=True)


def forward(engine: Any, case: ZeroCase) -> torch.Tensor:
    shape = (case.micro_batch_size, case.sequence_length // case.sequence_ranks)
    ids = torch.randint(1, case.workload.model.vocab_size, shape)
    fused = {"fused_lm_head": True} if case.loss == "fused" else {}
    output = engine(input_ids=ids, **_beside(ids, case), use_cache=False, **fused)
    loss: torch.Tensor = -output.log_probs.sum() / 10 if fused else output.loss
    return loss


def _beside(ids: torch.Tensor, case: ZeroCase) -> dict[str, torch.Tensor]:
    """Labels and a mask, or positions and shifted labels where ranks share sequences."""
    if case.sequence_ranks > 1:
        labels = ids.clone()
        positions = torch.arange(ids.shape[1])[None] + ids.shape[1] * torch.distributed.get_rank()
        return {"labels": labels, "shift_labels": labels, "position_ids": positions}
    mask = torch.ones_like(ids)
    mask[1:, -9:] = 0
    return {"attention_mask": mask, "labels": ids.clone()}
