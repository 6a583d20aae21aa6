"""One matrix of a layer, from which parameters, quantization, LoRA and FLOPs are counted."""

from msgspec import Struct


class Linear(Struct, frozen=True):
    """One ``nn.Linear``: ``in_features x out_features``, bias beside it."""

    name: str
    """The name that the model has for it."""
    in_features: int
    out_features: int
    bias: bool = False
    role: str | None = None
    """The name in Llama, where the model has another; None where the names are the same."""
    whole: bool = False
    """Whether bitsandbytes leaves it as it is; read: transformers/quantizers/base.py at 5.23,
    get_modules_to_not_convert, which names what a class keeps in fp32, and every tied matrix."""
    tied: bool = False
    """Whether it multiplies with the weight of a matrix before it, so that it has none of its
    own; an adapter on it is its own."""

    @property
    def key(self) -> str:
        return self.role or self.name

    @property
    def weight_params(self) -> int:
        return self.in_features * self.out_features

    @property
    def num_params(self) -> int:
        """Parameters of its own."""
        own = 0 if self.tied else self.weight_params
        return own + (self.out_features if self.bias else 0)
