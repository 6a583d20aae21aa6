"""Where each tensor of a ChatGLM checkpoint is in transformers' GLM, and its shape.

read: ``modeling_chatglm.py`` at THUDM/chatglm3-6b (ChatGLM2, GLM-4's first layout the same),
and ``models/glm/modeling_glm.py`` in transformers 5.23. The two differ in names, and in that
ChatGLM keeps query, key and value as the rows of one matrix.
"""

from collections.abc import Iterator
from dataclasses import dataclass

ROTARY_TABLE = "transformer.rotary_pos_emb.inv_freq"
"""A buffer; GLM computes its own."""
ORIGINAL_LAYER = "transformer.encoder.layers.{}."
NATIVE_LAYER = "model.layers.{}."

EMBEDDING = ("transformer.embedding.word_embeddings.weight", "model.embed_tokens.weight")
FINAL_NORM = ("transformer.encoder.final_layernorm.weight", "model.norm.weight")
HEAD = ("transformer.output_layer.weight", "lm_head.weight")
LAYER_NORMS = ("input_layernorm", "post_attention_layernorm")
"""Of the same name on both sides."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    qkv_bias: bool


@dataclass(frozen=True, slots=True)
class Linear:
    """A linear module of a layer: its rows belong to one native module, or to several in turn."""

    original: str
    parts: tuple[tuple[str, int], ...]
    """Native name and rows."""
    columns: int
    bias: bool = False

    @property
    def rows(self) -> int:
        return sum(rows for _, rows in self.parts)


@dataclass(frozen=True, slots=True)
class Mapped:
    """A tensor of the original layout, and the native ones that its rows are, in order."""

    original: str
    parts: tuple[tuple[str, tuple[int, ...]], ...]
    """Native name and shape."""

    @property
    def shape(self) -> tuple[int, ...]:
        first = self.parts[0][1]
        return (sum(shape[0] for _, shape in self.parts), *first[1:])


def linears(shape: Shape) -> tuple[Linear, ...]:
    hidden, inner = shape.hidden_size, shape.intermediate_size
    queries = shape.num_attention_heads * shape.head_dim
    keys = shape.num_key_value_heads * shape.head_dim
    qkv = (("self_attn.q_proj", queries), ("self_attn.k_proj", keys), ("self_attn.v_proj", keys))
    return (
        Linear("self_attention.query_key_value", qkv, hidden, bias=shape.qkv_bias),
        Linear("self_attention.dense", (("self_attn.o_proj", hidden),), queries),
        Linear("mlp.dense_h_to_4h", (("mlp.gate_up_proj", 2 * inner),), hidden),
        Linear("mlp.dense_4h_to_h", (("mlp.down_proj", hidden),), inner),
    )


def tensors(shape: Shape) -> Iterator[Mapped]:
    """Every parameter, in the order of the forward pass."""
    yield _alone(EMBEDDING, (shape.vocab_size, shape.hidden_size))
    for layer in range(shape.num_layers):
        yield from _layer(shape, ORIGINAL_LAYER.format(layer), NATIVE_LAYER.format(layer))
    yield _alone(FINAL_NORM, (shape.hidden_size,))
    yield _alone(HEAD, (shape.vocab_size, shape.hidden_size))


def _layer(shape: Shape, original: str, native: str) -> Iterator[Mapped]:
    for norm in LAYER_NORMS:
        name = f"{norm}.weight"
        yield _alone((original + name, native + name), (shape.hidden_size,))
    for linear in linears(shape):
        yield Mapped(
            f"{original}{linear.original}.weight",
            tuple((f"{native}{name}.weight", (rows, linear.columns)) for name, rows in linear.parts),
        )
        if linear.bias:
            yield Mapped(
                f"{original}{linear.original}.bias",
                tuple((f"{native}{name}.bias", (rows,)) for name, rows in linear.parts),
            )


def _alone(names: tuple[str, str], shape: tuple[int, ...]) -> Mapped:
    original, native = names
    return Mapped(original, ((native, shape),))
