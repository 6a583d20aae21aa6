"""Rotary position embeddings, as transformers 5.23 writes them, on a tape of sizes."""

from planner.base.units import FP32_BYTES
from planner.models.model_spec import ModelSpec
from planner.tape import operators as ops
from planner.tape import view_operators as views
from planner.tape.tape import Tape
from planner.tape.tensors import Tensor

Tables = tuple[Tensor, Tensor]
"""Cosines and sines."""
PARTED_BY_ATTENTION = ("phi", "stablelm")
"""Architectures whose attention itself takes queries and keys apart, in variables that hold the
parts to its end; read: transformers/models/phi/modeling_phi.py at 5.23, PhiAttention.forward."""


def rotated(
    tape: Tape, model: ModelSpec, q: Tensor, k: Tensor, tables: Tables, held: list[Tensor]
) -> tuple[Tensor, Tensor]:
    """Mirror apply_rotary_pos_emb of Llama, OLMo-2, Phi-3, GLM, ERNIE 4.5 and Cohere; ``held`` gets
    the parts that variables of attention hold."""
    cos, sin = tables
    if model.rotary == "split":
        return turned_halves(tape, q, tables), turned_halves(tape, k, tables)
    if model.rotary == "complex":
        return _as_complex(tape, q, k, cos)
    share = model.rotary_fraction
    if model.rotary == "halves":
        return _rotate(tape, q, cos, sin), _rotate(tape, k, cos, sin)
    if model.rotary == "halves-fp32":
        widths = q.width, k.width
        q, k = _rotate(tape, q, cos, sin), _rotate(tape, k, cos, sin)
        return (
            ops.cast(tape, q, widths[0], "query, rotated"),
            ops.cast(tape, k, widths[1], "key, rotated"),
        )
    if model.rotary == "neighbours-fp32":
        return _turned_in_fp32(tape, q, cos, sin), _turned_in_fp32(tape, k, cos, sin)
    if model.rotary == "products-fp32":
        cos = tape.new(cos.elements, cos.width, "cosines, interleaved")
        sin = tape.new(sin.elements, sin.width, "sines, interleaved")
        q_turned, k_turned = (_products_in_fp32(tape, x, cos, sin) for x in (q, k))
        return ops.cast(tape, q_turned, q.width), ops.cast(tape, k_turned, k.width)
    if model.rotary == "joined":
        parts = held if model.model_type in PARTED_BY_ATTENTION else []
        return (
            _joined(tape, q, cos, sin, share, "query", parts),
            _joined(tape, k, cos, sin, share, "key", parts),
        )
    cos = tape.new(cos.elements, cos.width, "cosines, interleaved")
    sin = tape.new(sin.elements, sin.width, "sines, interleaved")
    q_turned = _rotate(tape, _part(tape, q, share), cos, sin)
    k_turned = _rotate(tape, _part(tape, k, share), cos, sin)
    q = ops.concatenate(tape, (q_turned, _part(tape, q, 1 - share)), "query, rotated")
    k = ops.concatenate(tape, (k_turned, _part(tape, k, 1 - share)), "key, rotated")
    return q, k


def turned_pairs(tape: Tape, x: Tensor, tables: Tables) -> Tensor:
    """Mirror apply_rotary_pos_emb_interleave of DeepSeek-V3: tables are views of their
    first half."""
    half = x.elements // 2
    cos, sin = (Tensor(each.elements // 2, each.width, each.storage, None) for each in tables)
    first, second = ops.slice_of(tape, x, half), ops.slice_of(tape, x, half)
    return _turned(tape, first, second, (cos, sin))


def turned_halves(tape: Tape, x: Tensor, tables: Tables) -> Tensor:
    """Mirror ``_apply_rotary_emb`` of gpt-oss: each half on its own, then concatenated."""
    first, second = views.split(tape, x, [x.elements // 2] * 2)
    return _turned(tape, first, second, tables)


def _turned(tape: Tape, first: Tensor, second: Tensor, tables: Tables) -> Tensor:
    cos, sin = tables
    straight = views.subtract(
        tape,
        ops.mul(tape, first, cos, "rotary: first x cos"),
        ops.mul(tape, second, sin, "rotary: second x sin"),
        "rotated, first",
    )
    crossed = ops.add(
        tape,
        ops.mul(tape, second, cos, "rotary: second x cos"),
        ops.mul(tape, first, sin, "rotary: first x sin"),
        "rotated, second",
    )
    return ops.concatenate(tape, (straight, crossed), "rotated")


def _joined(
    tape: Tape, x: Tensor, cos: Tensor, sin: Tensor, share: float, name: str, held: list[Tensor]
) -> Tensor:
    """Mirror Phi-3's concatenation: a slice of the whole is the tensor itself, an empty one is
    still a node."""
    turning = x if share == 1 else _part(tape, x, share)
    passed = _part(tape, x, 1 - share)
    turned = _rotate(tape, turning, cos, sin)
    held += [turned.detached(), passed.detached()]
    return ops.concatenate(tape, (turned, passed), f"{name}, rotated")


def _part(tape: Tape, x: Tensor, share: float) -> Tensor:
    return ops.slice_of(tape, x, int(x.elements * share))


def turned(tape: Tape, x: Tensor, tables: Tables) -> Tensor:
    """Return Llama's rotation of queries or of keys."""
    return _rotate(tape, x, *tables)


def _rotate(tape: Tape, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Return ``x * cos + rotate_half(x) * sin``."""
    straight = ops.mul(tape, x, cos, "rotary: x cos")
    crossed = ops.mul(tape, _half_turned(tape, x), sin, "rotary: half turned x sin")
    return ops.add(tape, straight, crossed, "rotated")


def _as_complex(tape: Tape, q: Tensor, k: Tensor, frequencies: Tensor) -> tuple[Tensor, Tensor]:
    """Mirror ``apply_rotary_emb`` of Llama 4, which turns both before it casts either."""
    widths = q.width, k.width
    q, k = (ops.cast(tape, x, FP32_BYTES, "rotary: in fp32") for x in (q, k))
    q, k = (ops.mul(tape, x, frequencies, "rotary: x turned") for x in (q, k))
    return (
        ops.cast(tape, q, widths[0], "query, rotated"),
        ops.cast(tape, k, widths[1], "key, rotated"),
    )


def _turned_in_fp32(tape: Tape, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    width = x.width
    x = ops.cast(tape, x, FP32_BYTES, "rotary: in fp32")
    return ops.cast(tape, _rotate(tape, x, cos, sin), width, "rotated")


def _products_in_fp32(tape: Tape, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Return ``x.float() * cos + rotate_half(x).float() * sin``."""
    in_fp32 = ops.cast(tape, x, FP32_BYTES, "rotary: in fp32")
    straight = ops.mul(tape, in_fp32, cos, "rotary: x cos")
    del in_fp32
    turned = ops.cast(tape, _half_turned(tape, x), FP32_BYTES, "rotary: half turned in fp32")
    crossed = ops.mul(tape, turned, sin, "rotary: half turned x sin")
    del turned
    return ops.add(tape, straight, crossed, "rotated")


def _half_turned(tape: Tape, x: Tensor) -> Tensor:
    first = ops.slice_of(tape, x, x.elements // 2)
    second = ops.slice_of(tape, x, x.elements // 2)
    negated = ops.unary(tape, second, "negated half")
    return ops.concatenate(tape, (negated, first), "half turned")
