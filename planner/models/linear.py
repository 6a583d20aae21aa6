"""One matrix of a layer, from which parameters, quantization, LoRA and FLOPs are counted."""

from typing import NamedTuple


class Linear(NamedTuple):
    """One ``nn.Linear``: ``in_features x out_features``, bias beside it."""

    name: str
    """The name that the model has for it."""
    in_features: int
    out_features: int
    bias: bool = False
    role: str | None = None
    """The name in Llama, where the model has another; None where the names are the same."""

    @property
    def key(self) -> str:
        return self.role or self.name

    @property
    def weight_params(self) -> int:
        return self.in_features * self.out_features

    @property
    def num_params(self) -> int:
        return self.weight_params + (self.out_features if self.bias else 0)
