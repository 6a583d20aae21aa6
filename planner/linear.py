"""One matrix of a layer, from which parameters, quantization, LoRA and FLOPs are counted."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear:
    """One ``nn.Linear``: ``in_features x out_features``, bias beside it."""

    name: str
    in_features: int
    out_features: int
    bias: bool = False

    @property
    def weight_params(self) -> int:
        return self.in_features * self.out_features

    @property
    def num_params(self) -> int:
        return self.weight_params + (self.out_features if self.bias else 0)
