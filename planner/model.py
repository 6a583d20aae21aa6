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

from planner.expert_shape import ExpertsSpec, LatentAttentionSpec
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
    routed: bool = False
    """Whether tokens go to experts in the place of one MLP."""
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
        return _layers(
            self.num_layers, self.sliding_window, self.full_attention_every, self.experts
        )

    @property
    def kinds(self) -> Mapping[LayerKind, int]:
        """How many layers there are of each kind, in the order in which they first come."""
        return _counted(
            self.num_layers, self.sliding_window, self.full_attention_every, self.experts
        )

    def linears(self, kind: LayerKind) -> tuple[Linear, ...]:
        """Matrices of one layer of a kind, in forward order; routed experts are none."""
        attention = self._attention if self.latent is None else _latent_attention(self, self.latent)
        if kind.routed and self.experts is not None:
            return (*attention, *_shared_experts(self.experts, self.hidden_size))
        return (*attention, *self._mlp(self.intermediate_size))

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

    def _mlp(self, i: int) -> tuple[Linear, ...]:
        h = self.hidden_size
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
        """RMSNorm weights of one layer."""
        across_heads = 2 * self.head_dim if self.qk_norm else 0
        latents = 0
        if self.latent is not None:
            latents = self.latent.kv_lora_rank + (self.latent.q_lora_rank or 0)
        return (4 if self.norms == "around" else 2) * self.hidden_size + across_heads + latents

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
        fused = () if self.experts is None else self.experts.expert_tensors(self.hidden_size)
        sizes = [fused[name] for name in fused]
        sizes += [linear.weight_params for linear, _ in self.counted_linears]
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


def _latent_attention(model: ModelSpec, latent: LatentAttentionSpec) -> tuple[Linear, ...]:
    """Matrices of DeepseekV2Attention and DeepseekV3Attention."""
    h, heads, bias = model.hidden_size, model.num_attention_heads, model.qkv_bias
    queries = heads * latent.qk_head_dim
    if latent.q_lora_rank is None:
        query: tuple[Linear, ...] = (Linear(name="q_proj", in_features=h, out_features=queries),)
    else:
        rank = latent.q_lora_rank
        query = (
            Linear(name="q_a_proj", in_features=h, out_features=rank, bias=bias),
            Linear(name="q_b_proj", in_features=rank, out_features=queries),
        )
    rank, values = latent.kv_lora_rank, heads * latent.v_head_dim
    down, up = rank + latent.qk_rope_head_dim, heads * latent.qk_nope_head_dim + values
    return (
        *query,
        Linear(name="kv_a_proj_with_mqa", in_features=h, out_features=down, bias=bias),
        Linear(name="kv_b_proj", in_features=rank, out_features=up),
        Linear(name="o_proj", in_features=values, out_features=h, bias=model.output_bias),
    )


def _shared_experts(experts: ExpertsSpec, h: int) -> tuple[Linear, ...]:
    """Matrices beside the routed experts, which tokens pass in any case."""
    inner = experts.shared_intermediate_size
    if not inner:
        return ()
    gate = (Linear(name="shared_expert_gate", in_features=h, out_features=1),)
    return (
        Linear(name="gate_proj", in_features=h, out_features=inner),
        Linear(name="up_proj", in_features=h, out_features=inner),
        Linear(name="down_proj", in_features=inner, out_features=h),
        *(gate if experts.shared_gate else ()),
    )


@cache
def _layers(
    num_layers: int, window: int | None, full_every: int | None, experts: ExpertsSpec | None
) -> tuple[LayerKind, ...]:
    """Made once for a shape."""
    return tuple(
        LayerKind(
            sliding_window=None if full_every and (n + 1) % full_every == 0 else window,
            routed=experts is not None and experts.routes(n),
        )
        for n in range(num_layers)
    )


@cache
def _counted(
    num_layers: int, window: int | None, full_every: int | None, experts: ExpertsSpec | None
) -> Mapping[LayerKind, int]:
    return Counter(_layers(num_layers, window, full_every, experts))
