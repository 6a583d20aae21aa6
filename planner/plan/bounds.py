"""Bounds of numbers that no model, machine or library goes beyond, as types of fields.

Options, plans and recipes have the same bounds, so that what none of them can mean is refused
where it is read.
"""

from typing import Annotated

from msgspec import Meta

MOST_SAMPLES = 2**24
"""Samples of the largest step: 4,096 on each of 4,096 GPUs. Their divisors are all tried."""
FEWEST_TOKENS = 2
"""Tokens of the shortest sample: the loss scores each token but the first by those before it."""
MOST_TOKENS = 2**27
"""Tokens of the longest sample, ten times the longest context of a published model."""
LARGEST_SEED = 2**32 - 1
"""read: numpy/random/_mt19937.pyx at 2.4.6, _legacy_seeding, which transformers.set_seed calls."""
MOST_SECONDS = 10**8
"""Three years; PyTorch keeps limits of collectives in nanoseconds of 64 bits."""
MOST_EPOCHS = 10**6
MOST_DROPOUT = 0.99
MOST_LAYERS = 2_000
"""Layers of the deepest model; the deepest published one, Llama 3.1 405B, has 126."""
LARGEST_PACKED = 2**31
"""Number of weights from which bitsandbytes packs no tensor in 4 bit; read: backends/cuda/ops.py at
0.50.2, whose kernels take it as an int32."""
RANKS_OF_EXPERTS = 8
"""Divisor of the rank of adapters on routed experts: PyTorch takes rows of a grouped product that
begin at 16 bytes; read: aten/src/ATen/native/GroupedMMUtils.h at 2.13."""

Samples = Annotated[int, Meta(ge=1, le=MOST_SAMPLES)]
"""Samples of a micro-batch or a step, or micro-batches of a step."""
SequenceLength = Annotated[int, Meta(ge=FEWEST_TOKENS, le=MOST_TOKENS)]
Seed = Annotated[int, Meta(ge=0, le=LARGEST_SEED)]
Seconds = Annotated[int, Meta(ge=1, le=MOST_SECONDS)]
Epochs = Annotated[float, Meta(gt=0, le=MOST_EPOCHS)]
