"""The shape of a decoder-only transformer, and how many parameters it has.

Names are those of Hugging Face's ``config.json``. A parameter count is made of matrices
(`Linear`), so that quantization, LoRA and FLOPs all count from the same list.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal

from pydantic import model_validator

from planner.module_names import module_names
from planner.spec import Spec

Activation = Literal["silu", "gelu", "gelu_new", "gelu_pytorch_tanh", "relu"]
"""transformers' names; ``gelu_new`` is GPT-2's, computed step by step."""
Mlp = Literal["swiglu", "fused-swiglu", "plain"]
"""``swiglu``: gate and up are two matrices. ``fused-swiglu``: one matrix holds both (GLM).
``plain``: no gate, an activation between two matrices (GPT)."""
Norm = Literal["rms", "layer"]
"""RMSNorm or LayerNorm."""
Residual = Literal["sequential", "parallel", "parallel-two-norms"]
"""``sequential``: the MLP reads what attention has added to. ``parallel``: both read the same
normalised input (Phi). ``parallel-two-norms``: both read the layer's input, each through its own
norm (GPT-NeoX)."""
Positions = Literal["rotary", "learned", "alibi"]
"""``learned``: a table of vectors added to the embeddings. ``alibi``: a slope on the scores."""
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
    """What the model calls it."""
    in_features: int
    out_features: int
    bias: bool = False
    role: str
    """What Llama calls it."""

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
    mlp_bias: bool = False
    head_bias: bool = False
    mlp: Mlp = "swiglu"
    activation: Activation = "silu"
    norm: Norm = "rms"
    norm_bias: bool = False
    """Whether LayerNorms have one."""
    embedding_norm: bool = False
    """A norm between the embeddings and the first layer (Bloom)."""
    residual: Residual = "sequential"
    positions: Positions = "rotary"
    position_offset: int = 0
    """Rows of the learned table in front of the first position (OPT)."""
    embedding_dropout: float = 0.0
    residual_dropout: float = 0.0
    """Of what attention and MLP add to the residual stream."""
    attention_dropout: float = 0.0
    """Of the attention weights."""
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
        return (*self._attention_linears(), *self._mlp_linears())

    def _attention_linears(self) -> Iterator[Linear]:
        h, q, kv = self.hidden_size, self.query_size, self.key_value_size
        widths = {"q_proj": q, "k_proj": kv, "v_proj": kv}
        if self.fused_qkv:
            widths = {"qkv_proj": q + 2 * kv}
        for role, width in widths.items():
            yield self._linear(role, h, width, bias=self.qkv_bias)
        yield self._linear("o_proj", q, h, bias=self.output_bias)

    def _mlp_linears(self) -> Iterator[Linear]:
        h, i = self.hidden_size, self.intermediate_size
        widths = {"gate_proj": i, "up_proj": i}
        if self.mlp == "fused-swiglu":
            widths = {"gate_up_proj": 2 * i}
        if self.mlp == "plain":
            widths = {"up_proj": i}
        for role, width in widths.items():
            yield self._linear(role, h, width, bias=self.mlp_bias)
        yield self._linear("down_proj", i, h, bias=self.mlp_bias)

    def _linear(self, role: str, in_features: int, out_features: int, *, bias: bool) -> Linear:
        return Linear(
            name=module_names(self.model_type).matrices.get(role, role),
            in_features=in_features,
            out_features=out_features,
            bias=bias,
            role=role,
        )

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
    def norm_params(self) -> int:
        """One norm over the hidden size."""
        return (2 if self.norm_bias else 1) * self.hidden_size

    @property
    def layer_norm_params(self) -> int:
        """Norms of one layer."""
        count = 1 if self.residual == "parallel" else 2
        across_heads = 2 * self.head_dim if self.qk_norm else 0
        return (4 if self.norms == "around" else count) * self.norm_params + across_heads

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
    def position_params(self) -> int:
        """The table of learned positions, where there is one."""
        rows = self.max_position_embeddings + self.position_offset
        return rows * self.hidden_size if self.positions == "learned" else 0

    @property
    def head_params(self) -> int:
        weight = 0 if self.tied_embeddings else self.embedding_params
        return weight + (self.vocab_size if self.head_bias else 0)

    @property
    def num_params(self) -> int:
        """All parameters, a tied matrix counted once."""
        layers = sum(count * self.layer_params(kind) for kind, count in self.kinds.items())
        norms = (2 if self.embedding_norm else 1) * self.norm_params
        embeddings = self.embedding_params + self.position_params
        return layers + norms + embeddings + self.head_params

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
