"""The tensors of a ChatGLM checkpoint and those of transformers' GLM: names and shapes.

read: ``modeling_chatglm.py`` at THUDM/chatglm3-6b (the same for ChatGLM2 and GLM-4's first
layout), and ``models/glm/modeling_glm.py`` in transformers 5.23. The two differ in names, and
ChatGLM keeps query, key and value as the rows of one matrix.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

ROTARY_TABLE = "transformer.rotary_pos_emb.inv_freq"
"""Name of a buffer that GLM computes itself."""
ORIGINAL_LAYER = "transformer.encoder.layers.{}."
NATIVE_LAYER = "model.layers.{}."

EMBEDDING = ("transformer.embedding.word_embeddings.weight", "model.embed_tokens.weight")
FINAL_NORM = ("transformer.encoder.final_layernorm.weight", "model.norm.weight")
HEAD = ("transformer.output_layer.weight", "lm_head.weight")
LAYER_NORMS = ("input_layernorm", "post_attention_layernorm")
"""Names of a layer's norms, in both layouts."""
FUSED = "self_attention.query_key_value"
MODULES: Mapping[str, tuple[str, ...]] = {
    FUSED: ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "self_attention.dense": ("self_attn.o_proj",),
    "mlp.dense_h_to_4h": ("mlp.gate_up_proj",),
    "mlp.dense_4h_to_h": ("mlp.down_proj",),
}
"""Native linear modules of a layer, in the order of their rows, by ChatGLM's module."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The sizes that decide the shape of every tensor."""

    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    qkv_bias: bool


@dataclass(frozen=True, slots=True)
class MappedTensor:
    """A tensor of the original layout, and the native tensors that its rows make, in order."""

    original: str
    parts: tuple[tuple[str, tuple[int, ...]], ...]
    """Name and shape of every native tensor."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the original tensor."""
        first = self.parts[0][1]
        return (sum(shape[0] for _, shape in self.parts), *first[1:])


def linear_sizes(shape: Shape) -> dict[str, tuple[int, int]]:
    """Return rows and columns of every native linear module of a layer."""
    hidden, inner = shape.hidden_size, shape.intermediate_size
    queries = shape.num_attention_heads * shape.head_dim
    keys = shape.num_key_value_heads * shape.head_dim
    return {
        "self_attn.q_proj": (queries, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, queries),
        "mlp.gate_up_proj": (2 * inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }


def tensors(shape: Shape) -> Iterator[MappedTensor]:
    """Give every parameter, in the order of the forward pass."""
    yield _alone(EMBEDDING, (shape.vocab_size, shape.hidden_size))
    for layer in range(shape.num_layers):
        yield from _layer(shape, ORIGINAL_LAYER.format(layer), NATIVE_LAYER.format(layer))
    yield _alone(FINAL_NORM, (shape.hidden_size,))
    yield _alone(HEAD, (shape.vocab_size, shape.hidden_size))


def _layer(shape: Shape, original: str, native: str) -> Iterator[MappedTensor]:
    for norm in LAYER_NORMS:
        name = f"{norm}.weight"
        yield _alone((original + name, native + name), (shape.hidden_size,))
    sizes = linear_sizes(shape)
    for module, parts in MODULES.items():
        weights = tuple((f"{native}{part}.weight", sizes[part]) for part in parts)
        yield MappedTensor(f"{original}{module}.weight", weights)
        if module == FUSED and shape.qkv_bias:
            biases = tuple((f"{native}{part}.bias", sizes[part][:1]) for part in parts)
            yield MappedTensor(f"{original}{module}.bias", biases)


def _alone(names: tuple[str, str], shape: tuple[int, ...]) -> MappedTensor:
    original, native = names
    return MappedTensor(original, ((native, shape),))
