"""The dtype of the state that generation keeps of a layer with a recurrence."""

from planner.base.units import FP32_BYTES
from planner.models.recurrent_shape import Mamba2Spec, Recurrence
from planner.workload.dtypes import Numerics


def state_width(shape: Recurrence, numerics: Numerics) -> int:
    """Return the bytes per element of a state: a mixer's is what a product returned, which autocast
    makes in 16 bit; that of a delta net is a sum, in fp32.

    read: transformers/cache_utils.py at 5.23.0, LinearAttentionLayer.lazy_initialization, which
    keeps the dtype that it is given.
    """
    in_16_bit = isinstance(shape, Mamba2Spec) and numerics.autocast
    return numerics.compute if in_16_bit else FP32_BYTES
