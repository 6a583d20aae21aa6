"""Shapes that differ from layer to layer, and tensors that layers share, as in Gemma 4."""

from planner.base.strict_yaml import PositiveInt, Spec
from planner.models.linear import Linear


class FullHeadsSpec(Spec):
    """Attention in the layers without a window, where its heads are others than elsewhere."""

    head_dim: PositiveInt
    key_value_heads: PositiveInt
    keys_are_values: bool = False
    """Whether keys, before their norm, are the values too, so that there is no ``v_proj``."""


class SharedKeysSpec(Spec):
    """Layers at the end that attend to keys and values of a layer before them."""

    num_layers: PositiveInt
    """Number of these layers; each reads what the last layer of its kind before them has made."""
    wide_mlp: bool = False
    """Whether their MLP is twice as wide."""


class AltUpSpec(Spec):
    """Several residual streams, of which each layer computes one and predicts and corrects all
    (Baykal et al., arXiv:2301.13310), with a low-rank path beside attention, as in Gemma 3n."""

    streams: PositiveInt
    rank: PositiveInt
    """Inner width of the path beside attention."""
    sparse_layers: int = 0
    """Number of layers at the start whose MLP keeps its largest activations alone."""

    def matrices(self, hidden_size: int) -> tuple[Linear, ...]:
        """Return the matrices of Gemma3nTextAltUp and Gemma3nTextLaurelBlock."""
        count = self.streams
        return (
            Linear("correction_coefs", count, count),
            Linear("prediction_coefs", count, count * count),
            Linear("modality_router", hidden_size, count),
            Linear("linear_left", hidden_size, self.rank),
            Linear("linear_right", self.rank, hidden_size),
        )

    def outside_matrices(self, hidden_size: int) -> tuple[Linear, ...]:
        """Return the matrices that make the other streams of the first, and those at the end."""
        return tuple(
            Linear(str(number), hidden_size, hidden_size, role=f"{name}.{number}")
            for name in ("altup_projections", "altup_unembed_projections")
            for number in range(self.streams - 1)
        )


class PerLayerInputsSpec(Spec):
    """A vector for each token and layer, by which the layer's output is gated."""

    size: PositiveInt
    vocab_size: PositiveInt
