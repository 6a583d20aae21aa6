"""The shape of layers that keep a state instead of attending, or beside it, as a model's
configuration states it."""

from math import prod
from typing import Literal

from msgspec import Struct

from planner.base.strict_yaml import PositiveInt, Spec
from planner.models.linear import Linear


class OwnParameter(Struct, frozen=True):
    """A parameter of a layer that is not part of a matrix."""

    shape: tuple[int, ...]
    decays: bool = False
    """Whether weight decay applies to it: neither a norm nor a bias, by its name.

    read: transformers/trainer.py at 5.23.0, get_decay_parameter_names.
    """

    @property
    def elements(self) -> int:
        """Number of elements."""
        return prod(self.shape)


class GatedDeltaSpec(Spec):
    """Gated delta nets (Yang et al., arXiv:2412.06464) in all layers but some, which attend."""

    key_heads: PositiveInt
    """Heads of queries and keys; each serves several heads of values."""
    value_heads: PositiveInt
    key_head_dim: PositiveInt
    value_head_dim: PositiveInt
    kernel_size: PositiveInt
    """Tokens that the convolution before the recurrence sees."""
    attention_every: PositiveInt
    """One layer in this many attends, the last of them."""
    joined: bool = False
    """Whether two matrices hold what four do elsewhere, head by head (Qwen3-Next)."""

    @property
    def key_size(self) -> int:
        """Width of all queries, and of all keys."""
        return self.key_heads * self.key_head_dim

    @property
    def value_size(self) -> int:
        """Width of all values."""
        return self.value_heads * self.value_head_dim

    @property
    def mixed_size(self) -> int:
        """Width of queries, keys and values together."""
        return 2 * self.key_size + self.value_size

    @property
    def state_elements(self) -> int:
        """Elements of one sample's state in one layer."""
        return self.value_heads * self.key_head_dim * self.value_head_dim

    def matrices(self, hidden_size: int) -> tuple[Linear, ...]:
        """Return the matrices of Qwen3_5GatedDeltaNet and Qwen3NextGatedDeltaNet, in forward
        order."""
        gated = self.mixed_size + self.value_size
        widths = {
            "in_proj_qkv": self.mixed_size,
            "in_proj_z": self.value_size,
            "in_proj_b": self.value_heads,
            "in_proj_a": self.value_heads,
        }
        if self.joined:
            widths = {"in_proj_qkvz": gated, "in_proj_ba": 2 * self.value_heads}
        return (
            *(Linear(name, hidden_size, width) for name, width in widths.items()),
            Linear("out_proj", self.value_size, hidden_size),
        )

    @property
    def own_parameters(self) -> tuple[OwnParameter, ...]:
        """The bias and the logarithm of the decay, the convolution and the norm."""
        return (
            OwnParameter((self.value_heads,)),
            OwnParameter((self.value_heads,), decays=True),
            OwnParameter((self.mixed_size, 1, self.kernel_size), decays=True),
            OwnParameter((self.value_head_dim,)),
        )

    @property
    def convolved_size(self) -> int:
        """Number of channels of the convolution."""
        return self.mixed_size


Gating = Literal["norm", "plain", "norm-first"]
"""How the gate meets what the recurrence returns. ``norm``: it multiplies, then a norm over each
group follows (Granite 4). ``plain``: it multiplies (Falcon-H1). ``norm-first``: the norm comes
before it (Falcon-H1 with ``mamba_norm_before_gate``)."""


class Mamba2Spec(Spec):
    """Mamba-2 mixers (Dao and Gu, arXiv:2405.21060)."""

    heads: PositiveInt
    head_dim: PositiveInt
    groups: PositiveInt
    """Groups of heads that share what they read of the state and write to it."""
    state_size: PositiveInt
    """Dimensions of the state for each dimension of a head."""
    kernel_size: PositiveInt
    """Tokens that the convolution before the recurrence sees."""
    chunk_size: PositiveInt
    """Tokens that are computed at once; the state goes from chunk to chunk."""
    convolution_bias: bool = True
    input_bias: bool = False
    output_bias: bool = False
    gating: Gating = "norm"
    scaled: bool = False
    """Whether the input and the parts of its projection are multiplied by numbers (Falcon-H1)."""

    @property
    def inner_size(self) -> int:
        """Width of all heads together."""
        return self.heads * self.head_dim

    @property
    def convolved_size(self) -> int:
        """Width of the heads' inputs and of what reads and writes the state: the channels of the
        convolution."""
        return self.inner_size + 2 * self.groups * self.state_size

    @property
    def projected_size(self) -> int:
        """Width of the gate, the convolution's channels and the time steps together."""
        return self.inner_size + self.convolved_size + self.heads

    @property
    def state_elements(self) -> int:
        """Elements of one sample's state in one layer."""
        return self.inner_size * self.state_size

    def matrices(self, hidden_size: int) -> tuple[Linear, ...]:
        """Return the matrices of GraniteMoeHybridMambaLayer, in forward order."""
        return (
            Linear("in_proj", hidden_size, self.projected_size, self.input_bias),
            Linear("out_proj", self.inner_size, hidden_size, self.output_bias),
        )

    @property
    def own_parameters(self) -> tuple[OwnParameter, ...]:
        """The bias of the time steps, the logarithm of the decay, the weight of what passes by, the
        convolution with its bias, and the norm."""
        return (
            OwnParameter((self.heads,)),
            OwnParameter((self.heads,), decays=True),
            OwnParameter((self.heads,), decays=True),
            OwnParameter((self.convolved_size, 1, self.kernel_size), decays=True),
            *((OwnParameter((self.convolved_size,)),) if self.convolution_bias else ()),
            *((OwnParameter((self.inner_size,)),) if self.gating != "plain" else ()),
        )


class MambaSpec(Spec):
    """Mamba mixers (Gu and Dao, arXiv:2312.00752), with a norm over each of time step, write and
    read, as in Jamba."""

    inner_size: PositiveInt
    state_size: PositiveInt
    """Dimensions of the state for each channel."""
    kernel_size: PositiveInt
    """Tokens that the convolution before the recurrence sees."""
    step_rank: PositiveInt
    """Width that time steps are projected from."""
    convolution_bias: bool = True

    @property
    def convolved_size(self) -> int:
        """Number of channels of the convolution."""
        return self.inner_size

    @property
    def state_elements(self) -> int:
        """Elements of one sample's state in one layer."""
        return self.inner_size * self.state_size

    @property
    def projected_sizes(self) -> tuple[int, int, int]:
        """Widths that a channel's input is projected to: time step, write and read."""
        return self.step_rank, self.state_size, self.state_size

    def matrices(self, hidden_size: int) -> tuple[Linear, ...]:
        """Return the matrices of JambaMambaMixer, in forward order."""
        return (
            Linear("in_proj", hidden_size, 2 * self.inner_size),
            Linear("x_proj", self.inner_size, sum(self.projected_sizes)),
            Linear("dt_proj", self.step_rank, self.inner_size, bias=True),
            Linear("out_proj", self.inner_size, hidden_size),
        )

    @property
    def own_parameters(self) -> tuple[OwnParameter, ...]:
        """The logarithm of the decay, the weight of what passes by, the convolution with its bias,
        and the norms."""
        return (
            OwnParameter((self.inner_size, self.state_size), decays=True),
            OwnParameter((self.inner_size,), decays=True),
            OwnParameter((self.inner_size, 1, self.kernel_size), decays=True),
            *((OwnParameter((self.inner_size,)),) if self.convolution_bias else ()),
            *(OwnParameter((size,)) for size in self.projected_sizes),
        )


class ShortConvolutionSpec(Spec):
    """Gated short convolutions (LFM2): their state is the last tokens."""

    channels: PositiveInt
    """Width that is convolved: the hidden size."""
    kernel_size: PositiveInt
    """Tokens that the convolution sees."""
    bias: bool = False
    """Whether the convolution and both matrices have a bias."""

    @property
    def convolved_size(self) -> int:
        """Number of channels of the convolution."""
        return self.channels

    @property
    def state_elements(self) -> int:
        """Elements of a state beside the last tokens: none."""
        return 0

    def matrices(self, hidden_size: int) -> tuple[Linear, ...]:
        """Return the matrices of Lfm2ShortConv, in forward order."""
        return (
            Linear("in_proj", hidden_size, 3 * self.channels, self.bias),
            Linear("out_proj", self.channels, hidden_size, self.bias),
        )

    @property
    def own_parameters(self) -> tuple[OwnParameter, ...]:
        """The convolution with its bias."""
        return (
            OwnParameter((self.channels, 1, self.kernel_size), decays=True),
            *((OwnParameter((self.channels,)),) if self.bias else ()),
        )


Recurrence = GatedDeltaSpec | Mamba2Spec | MambaSpec | ShortConvolutionSpec
"""What keeps a state in a layer."""
