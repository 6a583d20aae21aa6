"""A timeline of a training loop under DeepSpeed's ZeRO-2.

read: deepspeed/runtime/zero/stage_1_and_2.py at 0.10: trained parameters are one flat 16-bit
tensor, and the rank's part of it exists again in fp32 with both moments; backward fills two buckets
of reduce_bucket_size elements in turn (overlap_comm), whose gradients go into the rank's flat part,
which micro-batches add to; a step makes that part fp32.
"""

from benchmarks.accuracy.loop import FIRST, STEPS, Training, hold, load
from benchmarks.accuracy.timeline import Timeline
from planner.base.units import FP32_BYTES, ceil_div
from planner.memory.workspaces import cublas_workspaces

BUCKETS = 2
MOMENTS = 2


def partitioned_gradients(training: Training, *, ranks: int, bucket_elements: int) -> Timeline:
    """Return the timeline of whole steps on one of ``ranks``."""
    line, run = Timeline(), training.run("reduce")
    width = training.numerics.gradient
    trained = sum(w.elements for w in run.weights.values() if w.trains)
    part = ceil_div(trained, ranks)
    load(line, training, run)
    hold(line, "cublas", cublas_workspaces(None))
    hold(line, "master", [part * FP32_BYTES])
    loss = run.casts_gone[-1]
    for number in range(STEPS):
        for micro_batch in range(min(training.micro_batches, 2)):
            line.log((FIRST, number, micro_batch), run.tape.log[:loss])
            hold(line, "bucket", [bucket_elements * width] * BUCKETS)
            line.log((FIRST, number, micro_batch), run.tape.log[loss:])
            line.take(("part", micro_batch), part * width)
            for bucket in range(BUCKETS):
                line.give(("bucket", bucket))
            if micro_batch > 0:
                line.give(("part", micro_batch))
        if number == 0:
            hold(line, "moment", [part * FP32_BYTES] * MOMENTS)
        line.take("flat", part * width)
        line.take("gradient in fp32", part * FP32_BYTES)
        line.give("flat")
        line.give(("part", 0))
        line.give("gradient in fp32")
    return line
