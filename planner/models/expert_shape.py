"""The shapes of routed experts and of latent attention, as a model's configuration states them."""

from typing import Literal

from planner.base.phrases import Phrase
from planner.base.strict_yaml import PositiveInt, Spec
from planner.models.linear import Linear
from planner.plan.bounds import LARGEST_PACKED

Router = Literal[
    "softmax",
    "softmax-fp32",
    "fp32-softmax",
    "softmax-corrected",
    "sigmoid",
    "sigmoid-fp32",
    "sigmoid-16-bit",
    "chosen-sigmoid",
    "chosen-softmax",
    "chosen-softmax-fp32",
    "sparse-mixer",
]
"""How tokens are given to experts, and with which weights (read: the router of each modeling_*.py
in transformers 5.23). ``softmax``: over all experts; the weights of those that are chosen go back
to the dtype of the logits (Qwen, OLMoE). ``softmax-fp32``: the weights stay in fp32, and so does
what they multiply (Mixtral). ``fp32-softmax``: as that, and the logits are made of operands cast to
fp32 (DeepSeek-V2). ``softmax-corrected``: of logits made so without autocast; experts are chosen by
corrected probabilities (ERNIE 4.5). ``sigmoid``: of the logits made so; experts are chosen by
corrected scores (DeepSeek-V3, GLM-4.5). ``sigmoid-fp32``: the same of logits cast to fp32, without
groups (MiniMax-M2). ``sigmoid-16-bit``: the same of logits as they are (LFM2). ``chosen-sigmoid``:
of the chosen logits, in fp32 (Llama 4). ``chosen-softmax``: over the chosen alone (gpt-oss).
``chosen-softmax-fp32``: the same in fp32, then in the input's dtype (Granite). ``sparse-mixer``:
two are drawn, one after the other (Phi-3.5-MoE)."""


CORRECTION = "router.correction_bias"
"""Name of the parameter that corrects the choice of experts."""


def _matrix(name: str, in_features: int, out_features: int, *, bias: bool = False) -> Linear:
    return Linear(name=name, in_features=in_features, out_features=out_features, bias=bias)


class ExpertsSpec(Spec):
    """The mixture of experts in a model's layers, and which layers have none."""

    num_experts: PositiveInt
    """Routed experts of a layer; their weights are one tensor per matrix instead of
    ``nn.Linear``."""
    experts_per_token: PositiveInt
    intermediate_size: int
    """Inner width of one routed expert."""
    router: Router
    normalized: bool = False
    """Whether the weights of a token's experts are made to sum to one."""
    num_groups: int = 1
    """Groups of experts; where there are several, experts are chosen from the best groups only."""
    chosen_groups: int = 1
    gated: bool = True
    """Whether an expert's activation multiplies another product, so that one tensor holds both
    matrices; without, it has only two (Nemotron-H)."""
    latent_size: int = 0
    """Width that tokens are projected to for their experts, and back; 0 where experts read the
    hidden states."""
    biased: bool = False
    """Whether experts and router have biases, and the activation is a clamped SwiGLU (gpt-oss)."""
    shared_intermediate_size: int = 0
    """Inner width of the MLP that every token passes beside its experts; 0 where there is none."""
    shared_gate: bool = False
    """Whether a sigmoid weighs that MLP's output (Qwen2-MoE)."""
    shared_first: bool = False
    """Whether that MLP runs before the routed experts (HunYuan)."""
    jitter: bool = False
    """Whether the input is multiplied by noise, and by more before the router (Phi-3.5-MoE)."""
    dense: bool = False
    """Whether every expert is given every token, scaled by the router (Llama 4)."""
    beside: bool = False
    """Whether they stand beside the layer's MLP, each with norms of its own (Gemma 4)."""
    router_matrix: str | None = None
    """The name of the router where it is an ``nn.Linear``, which is quantized and adapted like any
    other (HunYuan, Gemma 4); None where it is not."""
    first_dense_layers: int = 0
    """Number of layers at the start that have an ordinary MLP (DeepSeek)."""
    every: PositiveInt = 1
    """One layer in this many is routed, the last of them; the others have an ordinary MLP."""
    dense_layers: tuple[int, ...] = ()
    """Further layers with an ordinary MLP, counted from 0."""

    def __post_init__(self) -> None:
        if self.experts_per_token > self.num_experts:
            raise ValueError(
                Phrase(
                    "experts_per_token ({experts_per_token}) must not exceed num_experts "
                    "({num_experts})",
                    experts_per_token=self.experts_per_token,
                    num_experts=self.num_experts,
                )
            )

    def routes(self, layer: int) -> bool:
        """Return whether the layer of that index, counted from 0, has routed experts."""
        return (
            layer >= self.first_dense_layers
            and layer not in self.dense_layers
            and (layer + 1) % self.every == 0
        )

    @property
    def stored_turned(self) -> bool:
        """Whether matrices are stored as they are multiplied by, the inner side first."""
        return self.biased or self.dense

    def router_tensors(self, hidden_size: int) -> dict[str, int]:
        """Return the elements of the router's parameters by name; none where it is a matrix."""
        if self.router_matrix is not None:
            return {}
        tensors = {"router": self.num_experts * hidden_size}
        if self.biased:
            tensors["router.bias"] = self.num_experts
        if self.untrained_params:
            tensors[CORRECTION] = self.untrained_params
        return tensors

    @property
    def untrained_params(self) -> int:
        """Parameters of one layer's router that never train: what corrects the choice, where that
        is a parameter."""
        return self.num_experts if self.router == "softmax-corrected" else 0

    def fp32_params(self, hidden_size: int) -> int:
        """Return the parameters of one layer's router that transformers keeps in fp32."""
        is_kept = self.router == "softmax-corrected"
        return sum(self.router_tensors(hidden_size).values()) if is_kept else 0

    def expert_tensors(self, hidden_size: int) -> dict[str, int]:
        """Return the elements of the routed experts' parameters by name: one tensor for all
        experts."""
        count, inner, outside = self.num_experts, self.intermediate_size, self.width(hidden_size)
        tensors = {
            self.first: count * self.inner_products * inner * outside,
            "experts.down_proj": count * inner * outside,
        }
        if self.biased:
            tensors |= {
                f"{self.first}_bias": count * self.inner_products * inner,
                "experts.down_proj_bias": count * outside,
            }
        return tensors

    def packable(self, hidden_size: int) -> tuple[Linear, ...]:
        """Return the tensors of all experts that can be packed in 4 bit, each as one matrix: those
        that grouped products multiply with, if they are not too large."""
        stacks = self._stacks(hidden_size)
        return tuple(each for each in stacks if each.weight_params < LARGEST_PACKED)

    def too_large_params(self, hidden_size: int) -> int:
        """Return the weights of those that are too large."""
        sizes = (each.weight_params for each in self._stacks(hidden_size))
        return sum(size for size in sizes if size >= LARGEST_PACKED)

    def _stacks(self, hidden_size: int) -> tuple[Linear, ...]:
        """Return the tensors that grouped products multiply with, each as one matrix."""
        if self.dense:
            return ()
        inputs = {self.first: self.width(hidden_size), "experts.down_proj": self.intermediate_size}
        tensors = self.expert_tensors(hidden_size)
        return tuple(_matrix(name, side, tensors[name] // side) for name, side in inputs.items())

    def adaptable(self, hidden_size: int) -> tuple[Linear, ...]:
        """Return the matrices of one expert that can carry adapters, each by the name of the tensor
        that holds those of all experts."""
        return tuple(
            _matrix(each.name, each.in_features, each.out_features // self.num_experts)
            for each in self._stacks(hidden_size)
        )

    @property
    def first(self) -> str:
        """Name of the tensor of the experts' first matrices."""
        return "experts.gate_up_proj" if self.gated else "experts.up_proj"

    @property
    def inner_products(self) -> int:
        """Number of an expert's products of its inner width."""
        return 2 if self.gated else 1

    def width(self, hidden_size: int) -> int:
        """Return the width of what an expert reads and writes."""
        return self.latent_size or hidden_size

    def router_linears(self, hidden_size: int) -> tuple[Linear, ...]:
        """Return the router where it is a matrix like any other."""
        name = self.router_matrix
        return () if name is None else (_matrix(name, hidden_size, self.num_experts),)

    def matrices(self, hidden_size: int) -> tuple[Linear, ...]:
        """Return the matrices beside the router and the experts: those to their width and back,
        and the one that weighs what every token passes beside them."""
        latent = self.latent_size
        found = (
            _matrix("fc1_latent_proj", hidden_size, latent),
            _matrix("fc2_latent_proj", latent, hidden_size),
        )
        gate = (_matrix("shared_expert_gate", hidden_size, 1),)
        return (*(found if latent else ()), *(gate if self.shared_gate else ()))

    def params(self, hidden_size: int) -> int:
        """Return the parameters of one layer's router and routed experts."""
        tensors = self.router_tensors(hidden_size) | self.expert_tensors(hidden_size)
        return sum(tensors.values())

    def active_weights(self, hidden_size: int) -> int:
        """Return the weights of one layer's matrices that one token is multiplied with."""
        matrices = (self.inner_products + 1) * self.intermediate_size * self.width(hidden_size)
        chosen = self.experts_per_token * matrices
        return chosen if self.router_matrix else self.num_experts * hidden_size + chosen


class IndexerSpec(Spec):
    """What chooses the keys that a query attends to (DeepSeek-V3.2, arXiv:2512.02556, section
    2.1). No gradient passes it."""

    heads: PositiveInt
    head_dim: PositiveInt
    chosen_keys: PositiveInt
    """Keys that each query attends to."""
    interleaved: bool = False
    """Whether neighbours turn with each other (GLM-5), instead of halves."""

    def matrices(self, hidden_size: int, q_lora_rank: int) -> tuple[Linear, ...]:
        """Return the matrices of DeepseekV32Indexer."""
        return (
            _matrix("wq_b", q_lora_rank, self.heads * self.head_dim),
            _matrix("wk", hidden_size, self.head_dim),
            Linear("weights_proj", hidden_size, self.heads, whole=True),
        )


class LatentAttentionSpec(Spec):
    """Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434, section 2.1)."""

    q_lora_rank: int | None = None
    """Width of the queries' latent; None where queries are projected directly."""
    kv_lora_rank: int
    """Width of the latent that keys and values share."""
    qk_nope_head_dim: int
    """Dimensions of each head's query and key that do not rotate."""
    qk_rope_head_dim: int
    """Dimensions that do rotate; the rotated key is one for all heads."""
    v_head_dim: int
    indexer: IndexerSpec | None = None
    """What chooses the keys that a query attends to; None where it attends to all."""

    @property
    def qk_head_dim(self) -> int:
        return self.qk_nope_head_dim + self.qk_rope_head_dim

    @property
    def norm_sizes(self) -> tuple[int, ...]:
        """Widths of the RMSNorms over the latents, and of weight and bias of the indexer's norm."""
        of_queries = () if self.q_lora_rank is None else (self.q_lora_rank,)
        indexing = () if self.indexer is None else (self.indexer.head_dim,) * 2
        return (*of_queries, self.kv_lora_rank, *indexing)

    def matrices(self, hidden_size: int, heads: int, *, bias: bool) -> tuple[Linear, ...]:
        """Return the matrices of DeepseekV2Attention and DeepseekV3Attention."""
        h, queries, values = hidden_size, heads * self.qk_head_dim, heads * self.v_head_dim
        query: tuple[Linear, ...] = (_matrix("q_proj", h, queries),)
        if self.q_lora_rank is not None:
            query = (
                _matrix("q_a_proj", h, self.q_lora_rank, bias=bias),
                _matrix("q_b_proj", self.q_lora_rank, queries),
            )
        indexing: tuple[Linear, ...] = ()
        if self.indexer is not None and self.q_lora_rank is not None:
            indexing = self.indexer.matrices(h, self.q_lora_rank)
        rank = self.kv_lora_rank
        expanded = heads * self.qk_nope_head_dim + values
        return (
            *query,
            _matrix("kv_a_proj_with_mqa", h, rank + self.qk_rope_head_dim, bias=bias),
            _matrix("kv_b_proj", rank, expanded),
            *indexing,
            _matrix("o_proj", values, h, bias=bias),
        )
