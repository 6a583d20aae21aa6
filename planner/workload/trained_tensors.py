"""The tensors that a workload trains, in the order in which an optimizer is given them.

An optimizer's states depend on each tensor's shape, and its step on their order:
transformers' trainer puts those that decay before the others, each in the model's order.
read: transformers/trainer.py at 5.23.0, create_optimizer and get_decay_parameter_names.
"""

from collections import Counter
from collections.abc import Mapping
from math import prod

from msgspec import Struct
from msgspec.structs import force_setattr

from planner.workload.parameters import Role, decays, parameters
from planner.workload.settings_cache import TRAINED, cached_by_settings
from planner.workload.workload import Workload


class TrainedTensor(Struct, frozen=True):
    """The shape and the role of one parameter that gets a gradient, and its elements, which are
    read thousands of times."""

    shape: tuple[int, ...]
    role: Role = "weight"
    elements: int = 0

    def __post_init__(self) -> None:
        force_setattr(self, "elements", prod(self.shape))

    @property
    def decays(self) -> bool:
        """Whether weight decay applies to it."""
        return decays(self.role)


@cached_by_settings(*TRAINED)
def trained_tensors(workload: Workload) -> tuple[TrainedTensor, ...]:
    """Return every trained tensor, a tied one once, in the model's order."""
    return tuple(TrainedTensor(x.shape, x.role) for x in parameters(workload) if x.trains)


@cached_by_settings(*TRAINED)
def counted_tensors(workload: Workload) -> Mapping[TrainedTensor, int]:
    """Return how many trained tensors there are of each shape and role."""
    return Counter(trained_tensors(workload))
