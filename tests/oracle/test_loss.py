"""The stock loss against PyTorch itself: the same functions on real tensors, traced.

On the CPU log_softmax keeps the dtype that it is asked for, as on CUDA under autocast, so the
casts that CUDA's autocast makes are written out here.
"""

import pytest
import torch
from torch import nn

from launcher.rehearsal.tracer import Tracer
from planner.base.units import FP32_BYTES
from planner.forward.loss import cross_entropy
from planner.tape.operators import cast
from planner.tape.tape import Tape
from planner.tape.tensors import Parameter
from planner.workload.dtypes import CrossEntropy, Numerics
from planner.workload.workload import Batch

VOCABULARY, LENGTH = 4096, 64


def conventions(kind: CrossEntropy, *, autocast: bool) -> Numerics:
    return Numerics(
        compute=2,
        frozen=2,
        outside=2,
        trainable=2,
        gradient=2,
        master=0,
        residual=2,
        autocast=autocast,
        cross_entropy=kind,
    )


def traced_peak(kind: CrossEntropy, samples: int, *, autocast: bool) -> int:
    """The most bytes alive in the loss' forward and backward, the 16-bit logits included."""
    labels = torch.zeros(samples, LENGTH, dtype=torch.long)
    scale = torch.ones((), dtype=torch.bfloat16, requires_grad=True)
    base = torch.zeros((), dtype=torch.bfloat16).expand(samples, LENGTH, VOCABULARY)
    tracer = Tracer()
    with tracer, tracer.phase("loss"):
        loss = model_loss(base * scale, labels, kind, autocast=autocast)
        loss.backward()  # type: ignore[no-untyped-call]
    return max(sum(parts.values()) for parts in tracer.phases.values())


def model_loss(
    logits: torch.Tensor, labels: torch.Tensor, kind: CrossEntropy, *, autocast: bool
) -> torch.Tensor:
    """The end of LlamaForCausalLM.forward at 4.38, and of QWenLMHeadModel.forward."""
    if kind == "logits shifted in fp32":
        logits = logits.float()
    shifted = logits[..., :-1, :].contiguous()
    targets = labels[..., 1:].contiguous().view(-1)
    flat = shifted.view(-1, VOCABULARY)
    if kind == "logits shifted" and autocast:
        return nn.functional.nll_loss(nn.functional.log_softmax(flat, -1).float(), targets)
    return nn.functional.cross_entropy(flat, targets)


def taped_peak(kind: CrossEntropy, samples: int, *, autocast: bool) -> int:
    tape = Tape(sink="keep")
    batch = Batch(micro_batch_size=samples, sequence_length=LENGTH, device="cpu")
    logits = tape.new(batch.tokens * VOCABULARY, 2, "logits")
    logits.node = Parameter(logits.elements, 2, trains=True)
    logits.node.uses = 1
    if kind == "logits shifted in fp32":
        logits = cast(tape, logits, FP32_BYTES)
    kinds = conventions(kind, autocast=autocast)
    loss = cross_entropy(tape, logits, batch=batch, numerics=kinds)
    del logits
    tape.backward(loss, tape.new(1, FP32_BYTES, "gradient of the loss"))
    level = peak = 0
    for size, *_ in tape.log:
        level += size
        peak = max(peak, level)
    return peak


@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize(
    ("kind", "autocast"),
    [("logits shifted in fp32", False), ("logits shifted", False), ("logits shifted", True)],
)
def test_the_stock_loss_peaks_as_pytorch_does(
    kind: CrossEntropy, samples: int, *, autocast: bool
) -> None:
    ours = taped_peak(kind, samples, autocast=autocast)
    theirs = traced_peak(kind, samples, autocast=autocast)
    assert ours == pytest.approx(theirs, rel=0.02)
