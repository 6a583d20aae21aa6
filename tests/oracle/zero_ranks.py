"""What each of two gloo ranks allocates while DeepSpeed trains a small model on the CPU.

python -m torch.distributed.run ... -m tests.oracle.zero_ranks CASES.json FOLDER
"""

import gc
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import _disable_current_modes

STEPS = 3
"""The first makes the optimizer's states and the second records ZeRO-3's order of modules."""


class Debug:
    on = False


def tracer_class() -> Any:
    from launcher.trace import Tracer

    class Snapshots(Tracer):
        """Keeps, for the last step, what was alive at each phase's peak and where it was made."""

        def __init__(self) -> None:
            super().__init__()
            self.sites: dict[int, str] = {}
            self.at_peak: dict[str, list[Any]] = {}

        def _note(self, tensor):
            key = tensor.untyped_storage()._cdata
            new = key not in self._owned
            super()._note(tensor)
            if new and Debug.on and key in self._owned:
                stack = traceback.extract_stack(limit=14)[:-3]
                self.sites[key] = " < ".join(
                    f"{f.filename.rsplit('/',1)[-1]}:{f.lineno}:{f.name}" for f in reversed(stack)
                    if "/torch/" not in f.filename
                )[:400]
                self._snap()

        def _look(self):
            before = self._peak_bytes
            super()._look()
            self._moved = self._peak_bytes != before

        def _snap(self):
            if self._phase and self._total_bytes >= self._peak_bytes:
                self.at_peak[self._phase] = [
                    (e.num_bytes, e.part, self.sites.get(k, "")) for k, e in self._owned.items()
                ]

    return Snapshots


def main() -> None:
    cases, folder = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    Debug.on = len(sys.argv) > 3
    torch.set_num_threads(1)
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed("gloo")
    leave_out_copies_of_gloo()
    rank = int(os.environ["RANK"])
    found = []
    for case in cases:
        found.append(traced(case))
    (folder / f"rank-{rank}.json").write_text(json.dumps(found))
    torch.distributed.barrier()
    os._exit(0)


def leave_out_copies_of_gloo() -> None:
    """Its collectives copy what they send; NCCL's do not."""
    for name in ("reduce_scatter_tensor", "all_gather_into_tensor", "all_reduce", "all_gather"):
        collective = getattr(torch.distributed, name)

        def untraced(*args: Any, _call: Any = collective, **kwargs: Any) -> Any:
            with _disable_current_modes():
                return _call(*args, **kwargs)

        setattr(torch.distributed, name, untraced)


def traced(case: dict[str, Any]) -> dict[str, Any]:
    import deepspeed

    from launcher.deepspeed_config import deepspeed_config
    from tests.oracle.small_models import build, prepare
    from tests.oracle.zero_cases import ZeroCase

    which = ZeroCase(**case)
    work, plan = which.workload, which.plan
    torch.manual_seed(0)
    tracer = tracer_class()()
    with tracer:
        with tracer.phase("load"), tracer.part("weights"):
            model = prepare(build(work.model), work, zero_stage=which.layout.zero_stage).train()
        with tracer.phase("engine"), tracer.part("workspace"):
            if which.checkpointing:
                base = model.get_base_model() if work.recipe.adapter is not None else model
                reentrant = work.recipe.adapter is not None and which.strategy == "zero3"
                base.gradient_checkpointing_enable({"use_reentrant": reentrant})
                if work.recipe.adapter is not None:
                    model.enable_input_require_grads()
            engine, *_ = deepspeed.initialize(
                model=model, optimizer=optimizer_of(model), config=deepspeed_config(plan)
            )
        gc.collect()
        for step in range(STEPS):
            for micro in range(which.steps):
                last = micro == which.steps - 1
                name = "" if step == STEPS - 1 and last else "early "
                engine.set_gradient_accumulation_boundary(is_boundary=last)
                with tracer.phase(f"{name}forward"), tracer.part("activations"):
                    loss = forward(engine, which)
                with tracer.phase(f"{name}backward"), tracer.part("activations"):
                    engine.backward(loss)
                del loss
            name = "" if step == STEPS - 1 else "early "
            with tracer.phase(f"{name}optimizer_step"), tracer.part("workspace"):
                engine.step()
        gc.collect()
        with tracer.phase("save"):
            pass
    phases = {name: sum(parts.values()) for name, parts in tracer.phases.items()}
    result = {"phases": phases, "parts": tracer.phases, "at_peak": tracer.at_peak}
    engine.destroy()
    del engine, model
    gc.collect()
    return result


def optimizer_of(model: Any) -> torch.optim.Optimizer:
    """transformers/trainer.py at 5.23, create_optimizer: matrices decay, norms and biases not."""
    trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    decayed = [p for n, p in trained if "norm" not in n and not n.endswith("bias")]
    kept = [p for n, p in trained if "norm" in n or n.endswith("bias")]
    groups = [{"params": decayed, "weight_decay": 0.0}, {"params": kept, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=1e-4, fused=True)


def forward(engine: Any, which: Any) -> torch.Tensor:
    shape = (which.micro_batch_size, which.sequence_length)
    ids = torch.randint(1, which.workload.model.vocab_size, shape)
    mask = torch.ones_like(ids)
    mask[1:, -9:] = 0
    output = engine(input_ids=ids, attention_mask=mask, labels=ids.clone(), use_cache=False)
    return output.loss


if __name__ == "__main__":
    main()
