"""The shape of a decoder-only transformer, and how many parameters it has.

Names are those of Hugging Face's ``config.json``. A parameter count is made of matrices
(`Linear`), so that quantization, LoRA and FLOPs all count from the same list.
"""

from collections.abc import Mapping
from math import prod
from typing import Literal

from msgspec import Struct, structs

from planner.base.bounded_cache import bounded_cache
from planner.base.phrases import Phrase
from planner.base.strict_yaml import Spec
from planner.models.expert_shape import ExpertsSpec, LatentAttentionSpec
from planner.models.layer_kinds import Blocks, LayerKind, LayerPattern, counted, layers_of
from planner.models.layered_shape import (
    AltUpSpec,
    FullHeadsSpec,
    PerLayerInputsSpec,
    SharedKeysSpec,
)
from planner.models.linear import Linear
from planner.models.module_names import ONLY_LOSS, WITHOUT_MLP_MODULE, module_names
from planner.models.recurrent_shape import (
    GatedDeltaSpec,
    Mamba2Spec,
    MambaSpec,
    OwnParameter,
    Recurrence,
    ShortConvolutionSpec,
)
from planner.models.towers import TowersSpec
from planner.plan.vocabulary import Loss

Mlp = Literal["swiglu", "fused-swiglu", "plain"]
"""``swiglu``: gate and up are two matrices. ``fused-swiglu``: one matrix holds both (GLM).
``plain``: no gate, an activation between two matrices (GPT)."""
Activation = Literal["silu", "gelu", "gelu-tanh", "gelu-new", "gelu-quick", "relu", "relu2"]
"""The activation of the gate. ``gelu-tanh`` is PyTorch's own approximation, ``gelu-new``,
``gelu-quick`` and ``relu2`` are made of several operators (transformers' ``gelu_new``,
``quick_gelu``, ``relu2``)."""
Rotary = Literal[
    "halves",
    "halves-fp32",
    "joined",
    "interleaved",
    "products-fp32",
    "neighbours-fp32",
    "complex",
    "split",
    "pairs",
]
"""How queries and keys are turned. ``halves``: each head's first half with its second.
``halves-fp32``: the same in fp32, then cast back (OLMo-2). ``joined``: as ``halves``, then what
rotates and what does not are concatenated (Phi-3). ``interleaved``: neighbours with each other,
then concatenated (GLM). ``products-fp32``: neighbours with each other, their products in fp32
(ERNIE 4.5). ``neighbours-fp32``: the same, all of it in fp32 (Cohere). ``complex``: neighbours as
one complex number (DeepSeek-V2). ``split``: as ``halves``, each half on its own, then concatenated
(gpt-oss). ``pairs``: neighbours with each other, first and second ones apart (DeepSeek-V3)."""
Norm = Literal[
    "rms", "rms-fp32", "rms-fp32-weight", "rms-plus-one", "rms-power", "layer", "layer-fp32"
]
"""An RMSNorm is made in fp32. ``rms``: cast back, then scaled by its weight (Llama).
``rms-fp32``: scaled, then cast back (OLMo-2). ``rms-fp32-weight``: the same by its weight in fp32
(Nemotron-H). ``rms-plus-one``: the same by one more than that (Gemma). ``rms-power``: by its
weight, and the root is a power (Gemma 4). ``layer``: LayerNorm (GPT). ``layer-fp32``: the same
without a bias, written out in fp32 (Cohere)."""
Norms = Literal["before", "around", "after"]
"""``before``: attention and MLP each have a norm at their input. ``after``: at their output,
before the residual is added (OLMo-2). ``around``: at both (Gemma 2, GLM-4-0414)."""
QkNorm = Literal["heads", "heads-rotated", "whole", "unweighted-rotated"]
"""Norms of queries and of keys. ``heads``: over each head (Qwen3). ``heads-rotated``: the same,
once they have been turned (HunYuan). ``whole``: over all heads at once (OLMo-2).
``unweighted-rotated``: over each head without a weight, where they are turned (Llama 4)."""
Residual = Literal["sequential", "parallel", "parallel-two-norms"]
"""``sequential``: the MLP reads what attention has added to. ``parallel``: both read the same
normalised input (Phi). ``parallel-two-norms``: both read the layer's input, each through its own
norm (GPT-NeoX)."""
Positions = Literal["rotary", "learned", "alibi", "none"]
"""``learned``: a table of vectors added to the embeddings. ``alibi``: a slope on the scores.
``none``: only the order in which states change (Granite 4)."""


PER_LAYER_PROJECTION = "per_layer_model_projection"
"""Role of the matrix that makes every layer's vector of a token's embedding."""


class Heads(Struct, frozen=True):
    """Heads of attention in one layer."""

    queries: int
    key_values: int
    head_dim: int

    @property
    def query_size(self) -> int:
        """Width of the queries."""
        return self.queries * self.head_dim

    @property
    def key_value_size(self) -> int:
        """Width of the keys alone, equal to that of the values."""
        return self.key_values * self.head_dim


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
    """One layer in this many has no window, the last of them; None where all layers have it."""
    full_attention_first: int = 0
    """Number of layers at the start that have no window (Qwen2's ``max_window_layers``)."""
    unrotated_every: int | None = None
    """One layer in this many does not turn queries and keys, the last of them (SmolLM3)."""
    local_rotary: bool = False
    """Whether layers with a window have rotary tables of their own (Gemma 3)."""
    qkv_bias: bool = False
    output_bias: bool = False
    tied_embeddings: bool = False
    mlp_bias: bool = False
    head_bias: bool = False
    mlp: Mlp = "swiglu"
    activation: Activation = "silu"
    norm_bias: bool = False
    """Whether LayerNorms have a bias."""
    embedding_norm: bool = False
    """Whether a norm stands between the embeddings and the first layer (Bloom)."""
    residual: Residual = "sequential"
    positions: Positions = "rotary"
    position_offset: int = 0
    """Rows of the learned table in front of the first position (OPT)."""
    embedding_dropout: float = 0.0
    residual_dropout: float = 0.0
    """Dropout of what attention and MLP add to the residual stream."""
    attention_dropout: float = 0.0
    """Dropout of the attention weights."""
    rotary_fraction: float = 1.0
    """Share of each head's dimensions that rotate."""
    rotary: Rotary = "halves"
    norm: Norm = "rms"
    norms: Norms = "before"
    qk_norm: QkNorm | None = None
    scaled_embeddings: bool = False
    """Whether the token embedding multiplies its rows by a number (Gemma)."""
    multipliers: bool = False
    """Whether embeddings, both blocks' outputs and the logits are multiplied by numbers
    (Granite)."""
    scaled_logits: bool = False
    """Whether the logits are multiplied by a number (Cohere)."""
    scaled_blocks: bool = False
    """Whether both blocks' outputs are multiplied by a number, and the last hidden states are
    divided by one before the head (MiniCPM3)."""
    attn_logit_softcapping: float | None = None
    """Bound that ``tanh`` caps attention's scores at, which no fused kernel does (Gemma 2); None
    without."""
    residual_in_fp32: bool = False
    """Whether the residual stream is in fp32, whatever the embeddings are in (Mamba-2)."""
    logits_in_fp32: bool = False
    """Whether the model returns its logits in fp32 (Nemotron-H)."""
    final_logit_softcapping: float | None = None
    """Bound that ``tanh`` caps the logits at (Gemma 2); None without."""
    tempered_attention: bool = False
    """Whether queries that are not turned are multiplied by a number for each position
    (Llama 4)."""
    attention_sinks: bool = False
    """Whether each head has one score more, a parameter, so that attention is eager (gpt-oss)."""
    fused_qkv: bool = False
    """Whether one matrix holds query, key and value (Phi-3)."""
    experts: ExpertsSpec | None = None
    """Mixture of experts; ``intermediate_size`` is then that of the layers without."""
    gated_attention: bool = False
    """Whether each query comes with a gate for attention's output (Qwen3.5)."""
    delta: GatedDeltaSpec | None = None
    """Gated delta nets in the place of attention, in most layers (Qwen3.5)."""
    mamba: Mamba2Spec | None = None
    """Mamba-2 mixers, in the layers that ``layer_letters`` says (Granite 4)."""
    mamba_1: MambaSpec | None = None
    """Mamba mixers, in the layers that ``layer_letters`` says (Jamba)."""
    convolution: ShortConvolutionSpec | None = None
    """Gated short convolutions, in the layers that ``layer_letters`` says (LFM2)."""
    layer_letters: str | None = None
    """A letter for each layer, repeated over all layers: ``M`` keeps a state, ``*`` attends, ``H``
    does both, ``-`` has an MLP alone, ``E`` experts alone. None where all attend, or as ``delta``
    says."""
    blocks: Blocks = "pairs"
    """Whether a layer has one block, and one norm, or attention and an MLP."""
    latent: LatentAttentionSpec | None = None
    """Multi-head latent attention; ``head_dim`` is then that of the part that rotates."""

    full_heads: FullHeadsSpec | None = None
    """Heads of layers without a window, where they are others than ``head_dim`` and
    ``num_key_value_heads`` say (Gemma 4)."""
    value_norm: bool = False
    """Whether values have a norm, which has no weight (Gemma 4)."""
    shared_keys: SharedKeysSpec | None = None
    """Layers at the end without keys and values of their own (Gemma 4)."""
    per_layer_inputs: PerLayerInputsSpec | None = None
    """Vectors that each layer's output is gated by (Gemma 4); None without."""

    altup: AltUpSpec | None = None
    """Several residual streams (Gemma 3n); None without."""

    beside: TowersSpec | None = None
    """Models of images and of sound that are in memory beside the text model (Gemma 4); None
    without."""
    left_out: tuple[str, ...] = ()
    """Parts of the configuration that are not built, as the class is the text model alone."""

    def __post_init__(self) -> None:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                Phrase(
                    "num_attention_heads ({num_attention_heads}) must be a multiple of "
                    "num_key_value_heads ({num_key_value_heads})",
                    num_attention_heads=self.num_attention_heads,
                    num_key_value_heads=self.num_key_value_heads,
                )
            )

    @property
    def query_size(self) -> int:
        return self.num_attention_heads * self.head_dim

    def heads(self, kind: LayerKind) -> Heads:
        """Return the heads of attention in a layer of a kind."""
        full = self.full_heads
        if full is None or kind.sliding_window is not None:
            return Heads(self.num_attention_heads, self.num_key_value_heads, self.head_dim)
        return Heads(self.num_attention_heads, full.key_value_heads, full.head_dim)

    def scored_size(self, kind: LayerKind) -> int:
        """Return the width of the queries and of what attention returns, together."""
        if self.latent is None:
            return 2 * self.heads(kind).query_size
        return self.num_attention_heads * (self.latent.qk_head_dim + self.latent.v_head_dim)

    @property
    def key_value_size(self) -> int:
        """Width of the keys alone, equal to that of the values."""
        return self.num_key_value_heads * self.head_dim

    def cached_sizes(self, kind: LayerKind) -> tuple[int, ...]:
        """Return the widths of what generation keeps of a token in one layer: its key and its
        value, or the latent from which both are computed, and the rotary part; none where the layer
        reads those of another."""
        if kind.sharing == "reads":
            return ()
        if self.latent is None:
            return (self.heads(kind).key_value_size,) * 2
        return self.latent.kv_lora_rank, self.latent.qk_rope_head_dim

    @property
    def layers(self) -> tuple[LayerKind, ...]:
        """The kind of each layer, in forward order."""
        return layers_of(self._pattern)

    @property
    def kinds(self) -> Mapping[LayerKind, int]:
        """Number of layers of every kind, in the order in which the kinds first occur."""
        return counted(self._pattern)

    @property
    def _pattern(self) -> LayerPattern:
        return LayerPattern(
            self.num_layers,
            self.sliding_window,
            self.full_attention_every,
            self.full_attention_first,
            self.unrotated_every,
            self.experts,
            self.delta,
            self.layer_letters,
            self.blocks,
            self.shared_keys,
            self.per_layer_inputs is not None,
            0 if self.altup is None else self.altup.sparse_layers,
        )

    @property
    def recurrence(self) -> Recurrence | None:
        """What keeps the state in layers that keep one."""
        return self.mamba or self.mamba_1 or self.convolution or self.delta

    def linears(self, kind: LayerKind) -> tuple[Linear, ...]:
        """Return the matrices of one layer of a kind, in forward order; routed experts are not
        among them."""
        return _linears(self, kind)

    def _attention(self, kind: LayerKind) -> tuple[Linear, ...]:
        h, heads = self.hidden_size, self.heads(kind)
        q, kv = heads.query_size, heads.key_value_size
        widths = {"q_proj": q * (1 + self.gated_attention), "k_proj": kv, "v_proj": kv}
        if self.fused_qkv:
            widths = {"qkv_proj": q + 2 * kv}
        if self.keys_are_values(kind):
            del widths["v_proj"]
        if kind.sharing == "reads":
            widths = {"q_proj": q}
        return (
            *(self._linear(role, h, width, bias=self.qkv_bias) for role, width in widths.items()),
            self._linear("o_proj", q, h, bias=self.output_bias),
        )

    def keys_are_values(self, kind: LayerKind) -> bool:
        """Return whether a layer's keys are its values, too."""
        full = self.full_heads
        return full is not None and full.keys_are_values and kind.sliding_window is None

    def _fed(self, kind: LayerKind) -> tuple[Linear, ...]:
        """Return the matrices of a layer's MLP, or of what stands beside its experts."""
        width, shared, experts = self.intermediate_size, self.shared_keys, self.experts
        if kind.sharing == "reads" and shared is not None and shared.wide_mlp:
            width *= 2
        if not kind.routed or experts is None:
            return self._mlp(width)
        found = self._mlp(width) if experts.beside else ()
        found += experts.router_linears(self.hidden_size)
        if experts.shared_intermediate_size:
            found += self._mlp(experts.shared_intermediate_size)
        return found + experts.matrices(self.hidden_size)

    def _mlp(self, width: int) -> tuple[Linear, ...]:
        """Return the matrices of an MLP of an inner width."""
        h, i = self.hidden_size, width
        widths = {"gate_proj": i, "up_proj": i}
        if self.mlp == "fused-swiglu":
            widths = {"gate_up_proj": 2 * i}
        if self.mlp == "plain":
            widths = {"up_proj": i}
        return (
            *(self._linear(role, h, width, bias=self.mlp_bias) for role, width in widths.items()),
            self._linear("down_proj", i, h, bias=self.mlp_bias),
        )

    def _linear(self, role: str, in_features: int, out_features: int, *, bias: bool) -> Linear:
        return Linear(
            name=module_names(self.model_type).matrices.get(role, role),
            in_features=in_features,
            out_features=out_features,
            bias=bias,
            role=role,
        )

    @property
    def only_loss(self) -> Loss | None:
        """The only loss that the model trains with; None if there are several."""
        return ONLY_LOSS.get(self.model_type)

    @property
    def can_recompute(self) -> bool:
        """Whether transformers can recompute the model's activations in backward."""
        return True

    @property
    def can_tile_mlp(self) -> bool:
        """Whether every layer has a dense MLP that is a module of its own and takes hidden states
        alone, none of which it drops (GPT2MLP)."""
        parts = (self.experts, self.altup, self.full_heads, self.mamba_1, self.mamba)
        dense = parts == (None,) * len(parts) and not self.residual_dropout
        return dense and self.model_type not in WITHOUT_MLP_MODULE

    @property
    def _gate(self) -> tuple[Linear, ...]:
        """Matrices around the vector that gates a layer's output."""
        if self.per_layer_inputs is None:
            return ()
        h, size = self.hidden_size, self.per_layer_inputs.size
        return (
            self._linear("per_layer_input_gate", h, size, bias=False),
            self._linear("per_layer_projection", size, h, bias=False),
        )

    @property
    def outside_linears(self) -> tuple[Linear, ...]:
        """Matrices outside of the layers that an adapter may be on."""
        if self.per_layer_inputs is None:
            return ()
        width = self.num_layers * self.per_layer_inputs.size
        projection = self._linear(PER_LAYER_PROJECTION, self.hidden_size, width, bias=False)
        others = () if self.altup is None else self.altup.outside_matrices(self.hidden_size)
        return (projection, *others)

    @property
    def tower_linears(self) -> tuple[Linear, ...]:
        """Matrices of models of images or sound beside the text model, which get no adapter. The
        last one ends the list of parameters where the head is tied, and is left as it is.

        read: transformers/quantizers/base.py at 5.23, get_keys_to_not_convert.
        """
        if self.beside is None:
            return ()
        *others, last = self.beside.matrices(self.hidden_size)
        return (*others, structs.replace(last, whole=self.tied_embeddings))

    @property
    def towers(self) -> tuple[str, ...]:
        """Names of the modules that hold those models."""
        return () if self.beside is None else self.beside.module_names

    @property
    def adaptable_linears(self) -> list[tuple[Linear, int]]:
        """Matrices that an adapter may be on, with the number of layers that have each."""
        in_layers = [
            (linear, count) for kind, count in self.kinds.items() for linear in self.linears(kind)
        ]
        return [*in_layers, *((linear, 1) for linear in self.outside_linears)]

    @property
    def counted_linears(self) -> list[tuple[Linear, int]]:
        """Matrices that are quantized, with the number of layers that have each."""
        found = [*self.adaptable_linears, *((linear, 1) for linear in self.tower_linears)]
        return [each for each in found if not each[0].whole]

    @property
    def matrix_params(self) -> int:
        """Weights of all counted matrices, biases left out."""
        return sum(count * linear.weight_params for linear, count in self.counted_linears)

    @property
    def norm_params(self) -> int:
        """One norm over the hidden size."""
        return (2 if self.norm_bias else 1) * self.hidden_size

    def own_parameters(self, kind: LayerKind) -> tuple[OwnParameter, ...]:
        """Return each parameter of one layer of a kind that belongs to no matrix: norms, sinks, and
        what a recurrence has beside its matrices."""
        count = 1 if self.residual == "parallel" or self.blocks == "single" else 2
        if self.norms == "around":
            count = 4
        sizes = (self.hidden_size,) * (count * (2 if self.norm_bias else 1))
        if kind.attends:
            sizes += self._attention_vectors(kind)
        if kind.routed and self.experts is not None and self.experts.beside:
            sizes += (self.hidden_size,) * 4 + (self.experts.num_experts,)
        if self.per_layer_inputs is not None:
            sizes += (self.hidden_size,)
        vectors = tuple(OwnParameter((size,)) for size in sizes)
        if self.altup is not None:
            vectors += tuple(
                OwnParameter((self.hidden_size,), decays=name == "scale")
                for name in ("scale", "router_norm", "post_laurel_norm")
            )
        if kind.recurrent and self.recurrence is not None:
            vectors += self.recurrence.own_parameters
        return vectors

    def _attention_vectors(self, kind: LayerKind) -> tuple[int, ...]:
        """Sizes of attention's own norms and sinks."""
        inside: tuple[int, ...] = () if self.latent is None else self.latent.norm_sizes
        if self.qk_norm == "whole":
            inside += (self.query_size, self.key_value_size)
        elif self.qk_norm in ("heads", "heads-rotated"):
            inside += (self.heads(kind).head_dim,) * (1 if kind.sharing == "reads" else 2)
        if self.attention_sinks:
            inside += (self.num_attention_heads,)
        return inside

    def layer_norm_params(self, kind: LayerKind) -> int:
        """Return the number of those elements."""
        return sum(each.elements for each in self.own_parameters(kind))

    def expert_params(self, kind: LayerKind) -> int:
        """Return the parameters of one layer's router and routed experts; 0 in a layer with an
        ordinary MLP."""
        if not kind.routed or self.experts is None:
            return 0
        return self.experts.params(self.hidden_size)

    @property
    def routed_params(self) -> int:
        """All layers' routers and routed experts."""
        return sum(count * self.expert_params(kind) for kind, count in self.kinds.items())

    @property
    def untrained_params(self) -> int:
        """Parameters that never train, not even where all others do."""
        experts = self.experts
        return 0 if experts is None else self._routed_layers * experts.untrained_params

    @property
    def fp32_params(self) -> int:
        """Parameters that transformers keeps in fp32 whatever it loads the others in."""
        experts = self.experts
        return 0 if experts is None else self._routed_layers * experts.fp32_params(self.hidden_size)

    def packed_linears(self, kind: LayerKind) -> tuple[Linear, ...]:
        """Return the matrices of one layer of a kind that are quantized."""
        return tuple(linear for linear in self.linears(kind) if not linear.whole)

    def packable_experts(self, kind: LayerKind) -> tuple[Linear, ...]:
        """Return the tensors of one layer's routed experts that can be packed in 4 bit."""
        if not kind.routed or self.experts is None:
            return ()
        return self.experts.packable(self.hidden_size)

    def adaptable_experts(self, kind: LayerKind) -> tuple[Linear, ...]:
        """Return the matrices of one of a layer's routed experts that can carry adapters."""
        if not kind.routed or self.experts is None:
            return ()
        return self.experts.adaptable(self.hidden_size)

    @property
    def packable_expert_params(self) -> int:
        """Weights of all such tensors."""
        return sum(
            count * stack.weight_params
            for kind, count in self.kinds.items()
            for stack in self.packable_experts(kind)
        )

    @property
    def too_large_expert_params(self) -> int:
        """Weights of tensors of routed experts that are too large to be packed."""
        if self.experts is None:
            return 0
        return self._routed_layers * self.experts.too_large_params(self.hidden_size)

    @property
    def _routed_layers(self) -> int:
        return sum(count for kind, count in self.kinds.items() if kind.routed)

    def layer_params(self, kind: LayerKind) -> int:
        """Return the parameters of one layer's matrices with their biases, experts and norms."""
        linears = sum(linear.num_params for linear in self.linears(kind))
        return linears + self.expert_params(kind) + self.layer_norm_params(kind)

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
    def per_layer_params(self) -> int:
        """The table of the vectors for each layer and the norm of what is added to them."""
        if self.per_layer_inputs is None:
            return 0
        inputs = self.per_layer_inputs
        return inputs.vocab_size * self.num_layers * inputs.size + inputs.size

    @property
    def head_params(self) -> int:
        weight = 0 if self.tied_embeddings else self.embedding_params
        return weight + (self.vocab_size if self.head_bias else 0)

    @property
    def num_params(self) -> int:
        """All parameters, a tied matrix counted once."""
        layers = sum(count * self.layer_params(kind) for kind, count in self.kinds.items())
        norms = (2 if self.embedding_norm else 1) * self.norm_params
        embeddings = self.embedding_params + self.position_params + self.per_layer_params
        outside = sum(linear.num_params for linear in self.outside_linears)
        return layers + norms + embeddings + outside + self.head_params + self._tower_params

    @property
    def _tower_params(self) -> int:
        """Parameters of the models beside the text model."""
        if self.beside is None:
            return 0
        matrices = sum(linear.num_params for linear in self.tower_linears)
        return matrices + sum(prod(shape) for shape in self.beside.own_shapes)

    @property
    def unquantized_params(self) -> int:
        """Number of parameters that transformers leaves in 16 bit: embeddings, head, norms,
        biases, and routed experts, which are not ``nn.Linear``.

        read: transformers/integrations/bitsandbytes.py at 5.23, replace_with_bnb_linear.
        """
        return self.num_params - self.matrix_params


@bounded_cache
def _linears(model: ModelSpec, kind: LayerKind) -> tuple[Linear, ...]:
    """Return the matrices of a layer; cached, since every operator of a pass needs them."""
    found: tuple[Linear, ...] = ()
    if kind.recurrent and model.recurrence is not None:
        found += model.recurrence.matrices(model.hidden_size)
    if kind.attends and model.latent is not None:
        heads, bias = model.num_attention_heads, model.qkv_bias
        found += model.latent.matrices(model.hidden_size, heads, bias=bias)
    elif kind.attends:
        found += model._attention(kind)
    if kind.feeds:
        found += model._fed(kind)
    if model.altup is not None:
        found += model.altup.matrices(model.hidden_size)
    return (*found, *model._gate)
