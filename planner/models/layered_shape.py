"""Shapes that differ from layer to layer, and tensors that layers share, as in Gemma 4."""

from planner.base.strict_yaml import PositiveInt, Spec


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


class PerLayerInputsSpec(Spec):
    """A vector for each token and layer, by which the layer's output is gated."""

    size: PositiveInt
    vocab_size: PositiveInt
