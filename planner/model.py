"""The shape of a decoder-only transformer, and how many parameters it has.

Names are those of Hugging Face's ``config.json``. A parameter count is made of matrices
(`Linear`), so that quantization, LoRA and FLOPs all count from the same list.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal

from pydantic import model_validator

from planner.spec import Spec

Mlp = Literal["swiglu", "fused-swiglu"]
"""``swiglu``: gate and up are two matrices. ``fused-swiglu``: one matrix holds both (GLM)."""
Rotary = Literal["halves", "joined", "interleaved"]
"""How queries and keys are turned. ``halves``: each head's first half with its second.
``joined``: the same, then what rotates and what does not are concatenated (Phi-3).
``interleaved``: neighbours with each other, then concatenated (GLM)."""
Norms = Literal["before", "around"]
"""``before``: attention and MLP each have a norm at their input. ``around``: one at their
output too, before the residual is added (GLM-4-0414)."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerKind:
    """What tells one layer of a model from another; layers of one kind are all alike."""

    sliding_window: int | None = None
    """Positions that attention looks back; beyond it a mask is needed."""
    variety: int = 0
    """Which of the sets of matrices it has, in a model that is traced."""


class ModelSpec(Spec):
    """The numbers of one model's shape, as its own configuration states them."""

    model_type: str
    """transformers' name of the architecture that the launcher builds (``glm`` for ChatGLM3)."""
    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    max_position_embeddings: int
    sliding_window: int | None = None
    """Positions that attention looks back in the layers that have a window."""
    full_attention_every: int | None = None
    """One layer in so many has no window, the last of them; nothing where all layers have it."""
    qkv_bias: bool = False
    output_bias: bool = False
    tied_embeddings: bool = False
    mlp: Mlp = "swiglu"
    rotary_fraction: float = 1.0
    """Share of each head's dimensions that rotate."""
    rotary: Rotary = "halves"
    norms: Norms = "before"
    qk_norm: bool = False
    """An RMSNorm over each head of queries and of keys (Qwen3)."""
    fused_qkv: bool = False
    """One matrix holds query, key and value (Phi-3)."""

    @model_validator(mode="after")
    def _heads_divide(self) -> "ModelSpec":
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads ({self.num_attention_heads}) must be a multiple of "
                f"num_key_value_heads ({self.num_key_value_heads})"
            )
        return self

    @property
    def query_size(self) -> int:
        return self.num_attention_heads * self.head_dim

    @property
    def key_value_size(self) -> int:
        """Width of the keys alone, equal to that of the values."""
        return self.num_key_value_heads * self.head_dim

    @property
    def layers(self) -> tuple[LayerKind, ...]:
        """The kind of each layer, in forward order."""
        return _layers(self.num_layers, self.sliding_window, self.full_attention_every)

    @property
    def kinds(self) -> Mapping[LayerKind, int]:
        """How many layers there are of each kind, in the order in which they first come."""
        return _counted(self.num_layers, self.sliding_window, self.full_attention_every)

    def linears(self, _kind: LayerKind) -> tuple[Linear, ...]:
        """Matrices of one layer of a kind, in forward order."""
        h, i = self.hidden_size, self.intermediate_size
        q, kv = self.query_size, self.key_value_size
        widths = {"q_proj": q, "k_proj": kv, "v_proj": kv}
        if self.fused_qkv:
            widths = {"qkv_proj": q + 2 * kv}
        attention = (
            *(
                Linear(name=name, in_features=h, out_features=width, bias=self.qkv_bias)
                for name, width in widths.items()
            ),
            Linear(name="o_proj", in_features=q, out_features=h, bias=self.output_bias),
        )
        if self.mlp == "fused-swiglu":
            up: tuple[Linear, ...] = (
                Linear(name="gate_up_proj", in_features=h, out_features=2 * i),
            )
        else:
            up = (
                Linear(name="gate_proj", in_features=h, out_features=i),
                Linear(name="up_proj", in_features=h, out_features=i),
            )
        return (*attention, *up, Linear(name="down_proj", in_features=i, out_features=h))

    @property
    def counted_linears(self) -> list[tuple[Linear, int]]:
        """Matrices of all layers, with the number of layers that have each."""
        return [
            (linear, count) for kind, count in self.kinds.items() for linear in self.linears(kind)
        ]

    @property
    def matrix_params(self) -> int:
        """Weights of all layers' matrices, biases left out."""
        return sum(count * linear.weight_params for linear, count in self.counted_linears)

    @property
    def layer_norm_params(self) -> int:
        """RMSNorm weights of one layer."""
        across_heads = 2 * self.head_dim if self.qk_norm else 0
        return (4 if self.norms == "around" else 2) * self.hidden_size + across_heads

    def layer_params(self, kind: LayerKind) -> int:
        """One layer's matrices with their biases, and norms."""
        return sum(linear.num_params for linear in self.linears(kind)) + self.layer_norm_params

    @property
    def largest_layer_params(self) -> int:
        return max(self.layer_params(kind) for kind in self.kinds)

    @property
    def embedding_params(self) -> int:
        """The token embedding alone; the head has as many again unless it is tied."""
        return self.vocab_size * self.hidden_size

    @property
    def head_params(self) -> int:
        return 0 if self.tied_embeddings else self.embedding_params

    @property
    def num_params(self) -> int:
        """All parameters, a tied matrix counted once."""
        layers = sum(count * self.layer_params(kind) for kind, count in self.kinds.items())
        return layers + self.hidden_size + self.embedding_params + self.head_params

    @property
    def unquantized_params(self) -> int:
        """What stays in 16 bit under bitsandbytes: embeddings, head, norms and biases."""
        return self.num_params - self.matrix_params


@cache
def _layers(num_layers: int, window: int | None, full_every: int | None) -> tuple[LayerKind, ...]:
    windowed = LayerKind(sliding_window=window)
    if full_every is None:
        return (windowed,) * num_layers
    full = LayerKind()
    return tuple(full if n % full_every == 0 else windowed for n in range(1, num_layers + 1))


@cache
def _counted(
    num_layers: int, window: int | None, full_every: int | None
) -> Mapping[LayerKind, int]:
    return Counter(_layers(num_layers, window, full_every))
