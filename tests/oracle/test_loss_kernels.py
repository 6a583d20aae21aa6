"""The kernels of trl's fused loss on the CPU against those that PyTorch really runs."""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from planner.forward.loss import FUSED_LOSS_VOCABULARY, fused_loss
from planner.tape.counting_tape import CountingTape
from planner.tape.tensors import Parameter
from planner.workload.dtypes import numerics
from planner.workload.workload import Batch

chunked_logprob = pytest.importorskip("trl.kernels.chunked_logprob")

HIDDEN, VOCABULARY, LENGTH = 16, FUSED_LOSS_VOCABULARY + 8192, 64
SCORED = LENGTH - 1
SMALLEST = SCORED * (VOCABULARY - FUSED_LOSS_VOCABULARY)
"""Elements of the smaller tile as bytes: a mask of it is counted, statistics of tokens are not."""


class Observed(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes of the large storages that operators make, and operations of products in fp32."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.made_bytes = 0
        self.fp32_flops = 0

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [x for x in (*args, *(kwargs or {}).values()) if isinstance(x, torch.Tensor)]
        before = {x.untyped_storage().data_ptr() for x in tensors}
        output = func(*args, **(kwargs or {}))
        if isinstance(output, torch.Tensor):
            storage = output.untyped_storage()
            if storage.data_ptr() not in before and storage.nbytes() >= SMALLEST:
                self.made_bytes += storage.nbytes()
        if func is torch.ops.aten.addmm_.default and args[1].dtype is torch.float32:
            self.fp32_flops += 2 * args[1].numel() * args[2].shape[1]
        return output


def observed(*, trains: bool) -> Observed:
    """The function that trl's fused head calls, as SFTTrainer asks for it."""
    hidden = torch.randn(SCORED, HIDDEN, dtype=torch.bfloat16, requires_grad=True)
    head = torch.randn(VOCABULARY, HIDDEN, dtype=torch.bfloat16, requires_grad=trains)
    targets = torch.zeros(SCORED, dtype=torch.long)
    scales: tuple[Any, ...] = 1.0, FUSED_LOSS_VOCABULARY, None, 1.0, ("entropy", "is_top1")
    apply, seen = chunked_logprob.ChunkedLogProbFunction.apply, Observed()
    with seen:
        log_probs, *_ = apply(hidden, head, None, targets, *scales)
        log_probs.sum().backward()
    return seen


def counted(*, trains: bool) -> Observed:
    tape = CountingTape(sink="keep")
    batch = Batch(micro_batch_size=1, sequence_length=LENGTH, device="cpu")
    hidden = tape.new(LENGTH * HIDDEN, 2, "hidden states")
    hidden.node = Parameter(hidden.elements, 2, trains=True)
    head = Parameter(VOCABULARY * HIDDEN, 2, trains=trains)
    kinds = numerics(method="lora", compute="bf16", zero_stage=2)
    loss = fused_loss(tape, hidden, head, batch=batch, numerics=kinds)
    tape.backward(loss, tape.new(SCORED, 4, "gradient of the loss"))
    seen = Observed()
    seen.made_bytes = sum(kernel.made for kernel in tape.kernels if kernel.made >= SMALLEST)
    seen.fp32_flops = sum(kernel.flops for kernel in tape.kernels if kernel.width == 4)
    return seen


@pytest.mark.parametrize("trains", [False, True])
def test_the_fused_loss_makes_and_multiplies_on_the_cpu_what_pytorch_does(*, trains: bool) -> None:
    ours, theirs = counted(trains=trains), observed(trains=trains)
    assert ours.made_bytes == theirs.made_bytes
    assert ours.fp32_flops == theirs.fp32_flops
