"""What a step holds, buffer by buffer: finer than the parts that reports and plans show.

A part of a phase is the sum of its buffers. ``plan --explain`` has a formula for each buffer
(planner/report/explain/formulas.py).
"""

from typing import Literal

from msgspec import Struct

from planner.memory.micro_batch import Amounts
from planner.plan.vocabulary import Method, Part

Buffer = Literal[
    "frozen_weights",
    "trained_weights",
    "adapters",
    "master_copies",
    "optimizer_states",
    "setup_copy",
    "gradients",
    "new_gradients",
    "setup_gradients",
    "ddp_buckets",
    "reduce_buckets",
    "reduced_copy",
    "offload_buffer",
    "persistent",
    "gathered",
    "loaded_parameter",
    "hooked_parameter",
    "saved_parameter",
    "activations",
    "loss",
    "pass_workspace",
    "cublas",
    "loading",
    "update",
    "cast",
]
Buffers = dict[Buffer, int]
Parts = dict[Part, int]

PART_OF: dict[Buffer, Part] = {
    "frozen_weights": "weights",
    "trained_weights": "weights",
    "adapters": "adapters",
    "master_copies": "optimizer_states",
    "optimizer_states": "optimizer_states",
    "setup_copy": "optimizer_states",
    "gradients": "gradients",
    "new_gradients": "gradients",
    "setup_gradients": "gradients",
    "ddp_buckets": "communication",
    "reduce_buckets": "communication",
    "reduced_copy": "communication",
    "offload_buffer": "communication",
    "persistent": "communication",
    "gathered": "communication",
    "loaded_parameter": "communication",
    "hooked_parameter": "communication",
    "saved_parameter": "communication",
    "activations": "activations",
    "loss": "loss",
    "pass_workspace": "workspace",
    "cublas": "workspace",
    "loading": "workspace",
    "update": "workspace",
    "cast": "workspace",
}


class Border(Struct, frozen=True):
    """The moment in forward before a layer, or behind the last one, by the layer's number."""

    layer: int


class Ahead(Struct, frozen=True):
    """The largest moment in the forward pass of a layer, by its number."""

    layer: int


IN_HEAD = -1
"""Number of the stretch before those of the layers' backward pass."""


class Arrival(Struct, frozen=True):
    """The moment in a stretch of the layers' backward pass, counted from the last layer, or in the
    head's before it, when a parameter's gradient arrives and most is alive; behind the last
    stretch, the end of backward."""

    stretch: int


class Late(Struct, frozen=True):
    """The largest moment in a stretch of the layers' backward pass, counted from the last layer,
    from the first arrival of a parameter's gradient on."""

    stretch: int


Place = (
    Literal["layers_forward", "forward", "head_backward", "before_layers", "backward"]
    | Border
    | Ahead
    | Arrival
    | Late
    | int
)
"""Where in a pass its largest moment lies: forward up to the last layer, forward as a whole, the
head's backward pass, the end of that, backward as a whole, a border between layers in forward, one
layer there, or one stretch of the layers' backward pass, counted from the last layer, or an arrival
in it, or what follows the first one."""


class Moment(Struct, frozen=True):
    """The largest moment of one phase."""

    buffers: Buffers
    """Bytes of each buffer, in the order of the parts they belong to."""
    place: Place | None = None
    """Where in the pass the moment lies; None in phases that no pass runs in."""
    pool_bytes: int = 0
    """Bytes of the allocator's pool when it grows for the head, of backward's moment alone."""

    @property
    def num_bytes(self) -> int:
        """Bytes of all buffers."""
        return sum(self.buffers.values())

    @property
    def parts(self) -> Parts:
        """Bytes of each part."""
        parts: Parts = {}
        for buffer, num_bytes in self.buffers.items():
            part = PART_OF[buffer]
            parts[part] = parts.get(part, 0) + num_bytes
        return parts


def larger(*moments: Moment) -> Moment:
    """Return the moment with the most bytes."""
    return max(moments, key=lambda moment: moment.num_bytes)


def weights_buffers(method: Method, *, frozen: int, trained: int) -> Buffers:
    """Return the bytes of a model's weights under the names that its method gives them."""
    if method == "full":
        return {"trained_weights": trained}
    return {"frozen_weights": frozen, "adapters": trained}


def pass_buffers(alive: Amounts) -> Buffers:
    """Return what a micro-batch makes, gradients of parameters aside."""
    return {
        "activations": alive["activations"],
        "loss": alive["loss"],
        "pass_workspace": alive["workspace"],
    }
