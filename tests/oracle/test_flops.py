"""Counted operations against PyTorch's own counter, over real models' whole steps."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from planner.forward.model_pass import ModelPass, passed_layers
from planner.plan.vocabulary import Method
from planner.tape.counting_tape import CountingTape
from planner.workload.dtypes import numerics
from planner.workload.workload import Batch, Workload
from tests.oracle.small_models import SHAPES, build, prepare, workload_of

BATCH = Batch(micro_batch_size=2, sequence_length=32, device="cpu")
NAMES = ("llama", "glm", "gpt2", "gemma2")
"""None with routed experts: torch's counter does not know their grouped products."""


def workload(name: str, method: Method, *, vera: bool = False) -> Workload:
    """Eager attention, whose products the counter sees one by one, and the stock loss."""
    work = workload_of(SHAPES[name], method, "fp32", 0.0, "all-linear", vera=vera)
    changes = {"attention": "eager", "loss": "standard"}
    return work.with_settings(**changes)


def counted_by_torch(work: Workload, *, checkpointing: bool) -> int:
    model = prepare(build(work.model), work, zero_stage=0)
    model.set_attn_implementation("eager")
    model.train()
    if checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    ids = torch.zeros(BATCH.micro_batch_size, BATCH.sequence_length, dtype=torch.long)
    counter = FlopCounterMode(display=False)
    with counter:
        model(input_ids=ids, labels=ids).loss.backward()
    return int(counter.get_total_flops())


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(("method", "vera"), [("full", False), ("lora", False), ("lora", True)])
@pytest.mark.parametrize("name", NAMES)
def test_a_step_multiplies_as_much_as_it_is_counted_to(
    name: str, method: Method, vera: bool, *, checkpointing: bool
) -> None:
    work = workload(name, method, vera=vera)
    run = ModelPass(
        work,
        BATCH,
        numerics(method=method, compute="fp32", zero_stage=0),
        layers=passed_layers(work.model, int(checkpointing)),
        sink="keep",
        tape=CountingTape,
    )
    assert isinstance(run.tape, CountingTape)
    ours = sum(kernel.flops for kernel in run.tape.kernels)
    assert ours == counted_by_torch(work, checkpointing=checkpointing)
