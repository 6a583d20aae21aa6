"""The shape of a decoder-only transformer, and how many parameters it has.

Names are those of Hugging Face's ``config.json``. A parameter count is made of matrices
(`Linear`), so that quantization, LoRA and FLOPs all count from the same list.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal, NamedTuple

from pydantic import model_validator

from planner.expert_shape import ExpertsSpec, LatentAttentionSpec
from planner.linear import Linear
from planner.spec import Spec

Mlp = Literal["swiglu", "fused-swiglu"]
"""``swiglu``: gate and up are two matrices. ``fused-swiglu``: one matrix holds both (GLM)."""
Activation = Literal["silu", "gelu", "gelu-tanh", "gelu-new", "gelu-quick", "relu"]
"""What the gate goes through. ``gelu-tanh`` is PyTorch's own approximation, ``gelu-new`` and
``gelu-quick`` are made of several operators (transformers' ``gelu_new``, ``quick_gelu``)."""
Rotary = Literal["halves", "halves-fp32", "joined", "interleaved"]
"""How queries and keys are turned. ``halves``: each head's first half with its second.
``halves-fp32``: the same in fp32, then cast back (OLMo-2). ``joined``: as ``halves``, then what
rotates and what does not are concatenated (Phi-3). ``interleaved``: neighbours with each other,
then concatenated (GLM)."""
Norm = Literal["rms", "rms-fp32", "rms-plus-one"]
"""An RMSNorm is made in fp32. ``rms``: cast back, then scaled by its weight (Llama).
``rms-fp32``: scaled, then cast back (OLMo-2). ``rms-plus-one``: the same, by one more than its
weight (Gemma)."""
Norms = Literal["before", "around", "after"]
"""``before``: attention and MLP each have a norm at their input. ``after``: at their output,
before the residual is added (OLMo-2). ``around``: at both (Gemma 2, GLM-4-0414)."""
QkNorm = Literal["heads", "heads-rotated", "whole"]
"""Norms of queries and of keys. ``heads``: over each head (Qwen3). ``heads-rotated``: the same,
once they have been turned (HunYuan). ``whole``: over all heads at once (OLMo-2)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerKind:
    """What tells one layer of a model from another; layers of one kind are all alike."""

    sliding_window: int | None = None
    """Positions that attention looks back; beyond it a mask is needed."""
    routed: bool = False
    """Whether tokens go to experts in the place of one MLP."""
    variety: int = 0
    """Which of the sets of matrices it has, in a model that is traced."""
    rotates: bool = True
    """Whether queries and keys are turned by their positions."""


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
    full_attention_first: int = 0
    """So many layers at the start have no window (Qwen2's ``max_window_layers``)."""
    unrotated_every: int | None = None
    """One layer in so many does not turn queries and keys, the last of them (SmolLM3)."""
    local_rotary: bool = False
    """Layers with a window have rotary tables of their own (Gemma 3)."""
    qkv_bias: bool = False
    output_bias: bool = False
    tied_embeddings: bool = False
    mlp: Mlp = "swiglu"
    activation: Activation = "silu"
    rotary_fraction: float = 1.0
    """Share of each head's dimensions that rotate."""
    rotary: Rotary = "halves"
    norm: Norm = "rms"
    norms: Norms = "before"
    qk_norm: QkNorm | None = None
    scaled_embeddings: bool = False
    """The token embedding multiplies its rows by a number (Gemma)."""
    multipliers: bool = False
    """Embeddings, both blocks' outputs and the logits are multiplied by numbers (Granite)."""
    attn_logit_softcapping: float | None = None
    """Where attention's scores are capped by ``tanh``, which no fused kernel does (Gemma 2)."""
    final_logit_softcapping: float | None = None
    """Where the logits are (Gemma 2)."""
    fused_qkv: bool = False
    """One matrix holds query, key and value (Phi-3)."""
    experts: ExpertsSpec | None = None
    """Mixture of experts; ``intermediate_size`` is then that of the layers without."""
    latent: LatentAttentionSpec | None = None
    """Multi-head latent attention; ``head_dim`` is then that of the part that rotates."""

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
    def scored_size(self) -> int:
        """Width of the queries and of what attention returns, together."""
        if self.latent is None:
            return 2 * self.query_size
        return self.num_attention_heads * (self.latent.qk_head_dim + self.latent.v_head_dim)

    @property
    def key_value_size(self) -> int:
        """Width of the keys alone, equal to that of the values."""
        return self.num_key_value_heads * self.head_dim

    @property
    def layers(self) -> tuple[LayerKind, ...]:
        """The kind of each layer, in forward order."""
        return _layers(self._pattern)

    @property
    def kinds(self) -> Mapping[LayerKind, int]:
        """How many layers there are of each kind, in the order in which they first come."""
        return _counted(self._pattern)

    @property
    def _pattern(self) -> "_Pattern":
        return _Pattern(
            self.num_layers,
            self.sliding_window,
            self.full_attention_every,
            self.full_attention_first,
            self.unrotated_every,
            self.experts,
        )

    def linears(self, kind: LayerKind) -> tuple[Linear, ...]:
        """Matrices of one layer of a kind, in forward order; routed experts are none."""
        h = self.hidden_size
        attention, mlp = self._attention, self._mlp
        if self.latent is not None:
            heads, bias = self.num_attention_heads, self.qkv_bias
            attention = self.latent.matrices(h, heads, bias=bias)
        if kind.routed and self.experts is not None:
            mlp = self.experts.shared_matrices(h)
        return (*attention, *mlp)

    @property
    def _attention(self) -> tuple[Linear, ...]:
        h, q, kv = self.hidden_size, self.query_size, self.key_value_size
        widths = {"q_proj": q, "k_proj": kv, "v_proj": kv}
        if self.fused_qkv:
            widths = {"qkv_proj": q + 2 * kv}
        return (
            *(
                Linear(name=name, in_features=h, out_features=width, bias=self.qkv_bias)
                for name, width in widths.items()
            ),
            Linear(name="o_proj", in_features=q, out_features=h, bias=self.output_bias),
        )

    @property
    def _mlp(self) -> tuple[Linear, ...]:
        h, i = self.hidden_size, self.intermediate_size
        if self.mlp == "fused-swiglu":
            up: tuple[Linear, ...] = (
                Linear(name="gate_up_proj", in_features=h, out_features=2 * i),
            )
        else:
            up = (
                Linear(name="gate_proj", in_features=h, out_features=i),
                Linear(name="up_proj", in_features=h, out_features=i),
            )
        return (*up, Linear(name="down_proj", in_features=i, out_features=h))

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
        """Norms' weights of one layer."""
        of_queries_and_keys = 0
        if self.qk_norm == "whole":
            of_queries_and_keys = self.query_size + self.key_value_size
        elif self.qk_norm is not None:
            of_queries_and_keys = 2 * self.head_dim
        of_latents = 0 if self.latent is None else self.latent.norm_params
        across = of_queries_and_keys + of_latents
        return (4 if self.norms == "around" else 2) * self.hidden_size + across

    def expert_params(self, kind: LayerKind) -> int:
        """One layer's router and routed experts, none in a layer with an ordinary MLP."""
        if not kind.routed or self.experts is None:
            return 0
        return self.experts.params(self.hidden_size)

    @property
    def routed_params(self) -> int:
        """All layers' routers and routed experts."""
        return sum(count * self.expert_params(kind) for kind, count in self.kinds.items())

    @property
    def largest_matrix_params(self) -> int:
        """Elements of the largest single parameter; all experts of a layer are one."""
        sizes = [linear.weight_params for linear, _ in self.counted_linears]
        if self.experts is not None:
            sizes += self.experts.expert_tensors(self.hidden_size).values()
        return max(self.embedding_params, *sizes)

    @property
    def active_weights(self) -> int:
        """Weights of all layers' matrices that one token is multiplied with."""
        routed = sum(count for kind, count in self.kinds.items() if kind.routed)
        if self.experts is None or not routed:
            return self.matrix_params
        return self.matrix_params + routed * self.experts.active_weights(self.hidden_size)

    @property
    def active_params(self) -> int:
        """Parameters that one token meets: of the routed experts only those it is sent to."""
        if self.experts is None:
            return self.num_params
        idle = self.experts.num_experts - self.experts.experts_per_token
        stored = sum(self.experts.expert_tensors(self.hidden_size).values())
        routed = sum(count for kind, count in self.kinds.items() if kind.routed)
        return self.num_params - routed * (stored // self.experts.num_experts) * idle

    def layer_params(self, kind: LayerKind) -> int:
        """One layer's matrices with their biases, experts and norms."""
        linears = sum(linear.num_params for linear in self.linears(kind))
        return linears + self.expert_params(kind) + self.layer_norm_params

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
        """What stays in 16 bit under bitsandbytes: embeddings, head, norms, biases, and routed
        experts, which are no ``nn.Linear``.

        read: transformers/integrations/bitsandbytes.py at 5.23, replace_with_bnb_linear.
        """
        return self.num_params - self.matrix_params


class _Pattern(NamedTuple):
    """What decides the kind of each layer: :class:`ModelSpec`'s fields of these names."""

    num_layers: int
    window: int | None
    full_every: int | None
    full_first: int
    unrotated_every: int | None
    experts: ExpertsSpec | None

    def kind(self, number: int) -> LayerKind:
        """Of the layer of that number, the first being 1."""
        full = number <= self.full_first or _is_last_of(self.full_every, number)
        return LayerKind(
            sliding_window=None if full else self.window,
            rotates=not _is_last_of(self.unrotated_every, number),
            routed=self.experts is not None and self.experts.routes(number - 1),
        )


def _is_last_of(every: int | None, number: int) -> bool:
    return every is not None and number % every == 0


@cache
def _layers(pattern: _Pattern) -> tuple[LayerKind, ...]:
    return tuple(pattern.kind(number) for number in range(1, pattern.num_layers + 1))


@cache
def _counted(pattern: _Pattern) -> Mapping[LayerKind, int]:
    return Counter(_layers(pattern))
