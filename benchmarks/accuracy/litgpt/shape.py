"""Shapes of LitGPT's models, by the names of ``litgpt/config.py``."""

from functools import cache
from pathlib import Path
from typing import Literal

from planner.base.strict_yaml import Spec, read_spec

SHAPES = Path(__file__).parent / "shapes.yaml"


class Shape(Spec):
    """The fields of one model's ``litgpt.config.Config``."""

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
    """Whether there are norms after attention and after the MLP too."""
    attention_softcapping: bool = False
    """Whether scores are capped, so that attention is written out and holds the whole matrix of
    scores."""

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
    """Return every shape by LitGPT's name of the model."""
    return read_spec(_Shapes, SHAPES).models
