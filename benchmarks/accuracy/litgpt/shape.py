"""Shapes of LitGPT's models, named as its ``litgpt/config.py`` names them."""

from functools import cache
from pathlib import Path
from typing import Literal

from planner.base.strict_yaml import Spec, read_spec

SHAPES = Path(__file__).parent / "shapes.yaml"


class Shape(Spec):
    """What ``litgpt.config.Config`` says of one model."""

    n_layer: int
    n_head: int
    n_query_groups: int
    n_embd: int
    head_size: int
    intermediate_size: int
    padded_vocab_size: int
    rope_n_elem: int
    norm: Literal["LayerNorm", "RMSNorm"] = "RMSNorm"
    mlp: Literal["GptNeoxMLP", "LLaMAMLP", "GemmaMLP"] = "LLaMAMLP"
    bias: bool = False
    lm_head_bias: bool = False
    parallel_residual: bool = False
    shared_attention_norm: bool = False
    scale_embeddings: bool = False
    post_norms: bool = False
    """Norms after attention and after the MLP too."""
    attention_softcapping: bool = False
    """Scores are capped, so attention is written out and its scores are whole."""

    @property
    def query_size(self) -> int:
        return self.n_head * self.head_size

    @property
    def key_value_size(self) -> int:
        return self.n_query_groups * self.head_size

    @property
    def qkv_size(self) -> int:
        return self.query_size + 2 * self.key_value_size


class _Shapes(Spec):
    read_in: str
    models: dict[str, Shape]


@cache
def shapes() -> dict[str, Shape]:
    """Every shape, by LitGPT's name of the model."""
    return read_spec(_Shapes, SHAPES).models
