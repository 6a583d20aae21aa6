"""The shape of layers that keep a state instead of attending, as a model's configuration states
it."""

from planner.base.strict_yaml import PositiveInt, Spec
from planner.models.linear import Linear


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
    def vector_sizes(self) -> tuple[int, ...]:
        """Elements of the bias and the logarithm of the decay, of the convolution and of the
        norm."""
        heads = self.value_heads
        return heads, heads, self.convolution_size, self.value_head_dim

    @property
    def convolution_size(self) -> int:
        """Elements of the convolution's weight, a kernel for each channel."""
        return self.mixed_size * self.kernel_size
