"""Gated delta nets, as transformers 5.23 writes them, on a tape of sizes.

The recurrence is the one in PyTorch's operators, which runs where no kernel of another package is
installed: chunks of tokens at once, and the state from chunk to chunk.

    T  tokens, filled up to whole chunks     c  tokens of a chunk     n  chunks of a sample
    H  heads of values     k, v  widths of a head's key and value
"""

from typing import NamedTuple

from msgspec import Struct

from planner.base.units import FP32_BYTES, ceil_div
from planner.forward.decoder import Decoder, Layer
from planner.forward.recurrent.convolution import convolution, without_padding
from planner.models.recurrent_shape import GatedDeltaSpec
from planner.tape import operators as ops
from planner.tape import recurrence_operators as recurrence
from planner.tape import view_operators as views
from planner.tape.expert_operators import masked, row_sums
from planner.tape.tape import Tape
from planner.tape.tensors import Tensor

CHUNK_TOKENS = 64
"""Tokens of a chunk; read: models/qwen3_5/modeling_qwen3_5.py at 5.23,
torch_chunk_gated_delta_rule."""


class _Operands(NamedTuple):
    """What the recurrence is given: queries, keys, values, decays in log space, and betas."""

    query: Tensor
    key: Tensor
    value: Tensor
    decay: Tensor
    beta: Tensor


class _Shape(Struct, frozen=True):
    """Sizes of one micro-batch's recurrence."""

    samples: int
    heads: int
    chunks: int
    key_dim: int
    value_dim: int

    @property
    def rows(self) -> int:
        """Tokens of all heads, filled up to whole chunks."""
        return self.samples * self.heads * self.chunks * CHUNK_TOKENS

    @property
    def state(self) -> int:
        return self.samples * self.heads * self.key_dim * self.value_dim


def gated_delta_net(decoder: Decoder, layer: Layer, x: Tensor, delta: GatedDeltaSpec) -> Tensor:
    """Mirror Qwen3_5GatedDeltaNet.forward and Qwen3NextGatedDeltaNet.forward."""
    tape, tokens = decoder.tape, decoder.batch.tokens
    x = without_padding(decoder, x)
    mixed, z, b, a, _held = (_from_two if delta.joined else _from_four)(decoder, layer, x, delta)
    mixed = convolution(
        decoder, layer, mixed, channels=delta.mixed_size, kernel_size=delta.kernel_size
    )
    sizes = [tokens * size for size in (delta.key_size, delta.key_size, delta.value_size)]
    query, key, value = views.split(tape, mixed, sizes)
    beta = ops.unary(tape, b, "beta", saves="output")
    decay = _decay(decoder, layer, a, delta)
    operands = _Operands(query, key, value, decay, beta)
    output = _recurrence(decoder, operands, delta)
    output = _gated_norm(decoder, layer, output, z, delta)
    decoder.keep_state(delta)
    return decoder.linear(layer, "out_proj", output)


class _Projected(NamedTuple):
    """Queries, keys and values together, the gate of the output, and what betas and decays are
    made of."""

    mixed: Tensor
    gate: Tensor
    beta: Tensor
    decay: Tensor
    held: tuple[Tensor, ...] = ()
    """Tensors that variables hold beside them."""


def _from_four(decoder: Decoder, layer: Layer, x: Tensor, _delta: GatedDeltaSpec) -> _Projected:
    return _Projected(
        mixed=decoder.linear(layer, "in_proj_qkv", x),
        gate=decoder.linear(layer, "in_proj_z", x),
        beta=decoder.linear(layer, "in_proj_b", x),
        decay=decoder.linear(layer, "in_proj_a", x),
    )


def _from_two(decoder: Decoder, layer: Layer, x: Tensor, delta: GatedDeltaSpec) -> _Projected:
    """Mirror fix_query_key_value_ordering, whose parts lie head by head and are copied."""
    tape, tokens = decoder.tape, decoder.batch.tokens
    both = decoder.linear(layer, "in_proj_qkvz", x)
    gates = decoder.linear(layer, "in_proj_ba", x)
    widths = (delta.key_size, delta.key_size, delta.value_size, delta.value_size)
    query, key, value, z = views.split(tape, both, [tokens * width for width in widths])
    b, a = views.split(tape, gates, [gates.elements // 2] * 2)
    value, z, b, a, query, key = [
        ops.contiguous(tape, part, "part of a projection, made contiguous")
        for part in (value, z, b, a, query, key)
    ]
    mixed = ops.concatenate(tape, (query, key, value), "query, key and value")
    return _Projected(mixed, z, b, a, (both, gates))


def _decay(decoder: Decoder, layer: Layer, a: Tensor, delta: GatedDeltaSpec) -> Tensor:
    """Return ``-A_log.float().exp() * softplus(a.float() + dt_bias)``."""
    tape, heads = decoder.tape, delta.value_heads
    logarithm = decoder.parameter(f"{layer.place}.A_log", heads)
    rates = ops.cast(tape, logarithm, FP32_BYTES, "A_log in fp32")
    rates = ops.unary(tape, rates, "exp(A_log)", saves="output")
    rates = ops.unary(tape, rates, "-exp(A_log)")
    a = ops.cast(tape, a, FP32_BYTES, "a in fp32")
    steps = ops.add(tape, a, decoder.parameter(f"{layer.place}.dt_bias", heads), "a + dt_bias")
    del a
    steps = ops.unary(tape, steps, "softplus", saves="input")
    return ops.mul(tape, rates, steps, "decay", on_rows=decoder.batch.device)


def _recurrence(decoder: Decoder, given: _Operands, delta: GatedDeltaSpec) -> Tensor:
    """Mirror torch_chunk_gated_delta_rule, whose variables hold what they have got to its end."""
    batch = decoder.batch
    shape = _Shape(
        samples=batch.micro_batch_size,
        heads=delta.value_heads,
        chunks=ceil_div(batch.sequence_length, CHUNK_TOKENS),
        key_dim=delta.key_head_dim,
        value_dim=delta.value_head_dim,
    )
    width = given.query.width
    rule = _ChunkRule(decoder, shape, keeps_order=width == FP32_BYTES)
    operands = [*rule.prepared(given, times=delta.value_heads // delta.key_heads)]
    output = rule.scanned(operands)
    tokens = batch.tokens * delta.value_size
    output = ops.slice_of(decoder.tape, output, tokens)
    return ops.cast(decoder.tape, output, width, "output of the recurrence")


class _ChunkRule:
    """The steps of torch_chunk_gated_delta_rule."""

    def __init__(self, decoder: Decoder, shape: _Shape, *, keeps_order: bool) -> None:
        self._tape: Tape = decoder.tape
        self._shape = shape
        self._compute = decoder.numerics.compute if decoder.numerics.autocast else None
        self._keeps_order = keeps_order
        """Whether heads lie within tokens: only a cast to fp32 changes that, and a product copies
        operands whose samples, heads and chunks are no single dimension."""

    def prepared(self, given: _Operands, *, times: int) -> _Operands:
        """Return the operands in fp32, normalised, and filled up to whole chunks."""
        tape, shape = self._tape, self._shape
        query, key = given.query, given.key
        if times > 1:
            query, key = self._repeated(query, times), self._repeated(key, times)
        query, key, value, beta, decay = [
            ops.cast(tape, x, FP32_BYTES, "operand of the recurrence in fp32")
            for x in (query, key, given.value, given.beta, given.decay)
        ]
        query, key = self._normalised(query), self._normalised(key)
        query = ops.unary(tape, query, "query, scaled")
        query, key, value = [
            recurrence.padded(tape, x, shape.rows * size, "operand of whole chunks")
            for x, size in (
                (query, shape.key_dim),
                (key, shape.key_dim),
                (value, shape.value_dim),
            )
        ]
        beta, decay = [
            recurrence.padded(tape, x, shape.rows, "operand of whole chunks") for x in (beta, decay)
        ]
        return _Operands(query, key, value, decay, beta)

    def _repeated(self, x: Tensor, times: int) -> Tensor:
        return ops.contiguous(self._tape, views.expanded(self._tape, x, times), "repeated heads")

    def _normalised(self, x: Tensor) -> Tensor:
        """Mirror l2norm."""
        tape = self._tape
        rows = x.elements // self._shape.key_dim
        squares = ops.mul(tape, x, x, "squares")
        sums = row_sums(tape, squares, rows)
        del squares
        root = ops.reciprocal_root(tape, sums)
        del sums
        return ops.mul(tape, x, root, "normalised")

    def _product(self, a: Tensor, b: Tensor, elements: int, rows: int, name: str) -> Tensor:
        """Return ``a @ b``: autocast casts both."""
        tape = self._tape
        if self._compute is not None:
            a, b = (ops.cast(tape, x, self._compute, f"{name}: operand cast") for x in (a, b))
        return ops.matmul(tape, a, b, elements, name, rows=rows)

    def _of_chunks(self, x: Tensor) -> Tensor:
        """Return all chunks of ``x`` as a product takes them."""
        return self._folded(x, copies=max(self._shape.samples, self._shape.chunks) > 1)

    def _of_chunk(self, x: Tensor) -> Tensor:
        """Return one chunk of ``x`` as a product takes it."""
        return self._folded(x, copies=self._shape.samples > 1)

    def _folded(self, x: Tensor, *, copies: bool) -> Tensor:
        if not copies or not self._keeps_order:
            return x
        return ops.contiguous(self._tape, x, "operand of a product, made contiguous")

    def scanned(self, given: list[Tensor]) -> Tensor:
        """Return the outputs of all chunks, and empty the list: queries and keys go when they have
        been decayed."""
        tape, shape = self._tape, self._shape
        query, key, value, decay, beta = given
        given.clear()
        v_beta = ops.mul(tape, value, beta, "value x beta")
        k_beta = ops.mul(tape, key, beta, "key x beta")
        total = recurrence.cumulative_sum(tape, decay, "summed decay")
        pairwise = self._pairwise(total)
        scores = shape.rows * CHUNK_TOKENS
        of_keys = self._product(
            self._of_chunks(k_beta), self._of_chunks(key), scores, shape.rows, "keys by keys"
        )
        system = ops.mul(tape, of_keys, pairwise, "system")
        del of_keys
        of_queries = self._product(
            self._of_chunks(query), self._of_chunks(key), scores, shape.rows, "queries by keys"
        )
        inside = ops.mul(tape, of_queries, pairwise, "attention within chunks")
        del of_queries
        decayed = ops.mul(tape, k_beta, self._exp(total), "key x beta, decayed")
        values = recurrence.solved(tape, system, v_beta, "new values", rows=CHUNK_TOKENS)
        reads = recurrence.solved(tape, system, decayed, "decayed keys", rows=CHUNK_TOKENS)
        state = tape.new(shape.state, FP32_BYTES, "state")
        output = tape.new(values.elements, FP32_BYTES, "output of all chunks")
        query = ops.mul(tape, query, self._exp(total), "query, decayed")
        key = ops.mul(tape, key, self._rest(total), "key, decayed")
        per_chunk = shape.rows // CHUNK_TOKENS
        last = self._exp(ops.slice_of(tape, total, per_chunk))
        for _ in range(shape.chunks):
            parts = (values, reads, query, key, inside, last)
            state, output = self._chunk(parts, state, output)
        return output

    def _exp(self, x: Tensor) -> Tensor:
        return ops.unary(self._tape, x, "exp of a decay", saves="output")

    def _rest(self, total: Tensor) -> Tensor:
        """Return ``(total[..., -1:] - total).exp()``."""
        tape = self._tape
        end = ops.slice_of(tape, total, total.elements // CHUNK_TOKENS)
        return self._exp(views.subtract(tape, end, total, "decay to the end of a chunk"))

    def _pairwise(self, total: Tensor) -> Tensor:
        """Return the decay between every two tokens of a chunk."""
        tape, scores = self._tape, self._shape.rows * CHUNK_TOKENS
        pairwise = views.subtract(tape, total, total, "decay between tokens", elements=scores)
        size = CHUNK_TOKENS * CHUNK_TOKENS
        pairwise = masked(tape, pairwise, "decay between tokens", mask_elements=size)
        return self._exp(pairwise)

    def _chunk(
        self, parts: tuple[Tensor, ...], state: Tensor, output: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the state after one chunk, and the outputs with those of the chunk."""
        tape, shape = self._tape, self._shape
        values, reads, query, key, inside, last = parts
        rows, count = shape.rows // shape.chunks, shape.chunks

        def part(x: Tensor) -> Tensor:
            return ops.slice_of(tape, x, x.elements // count)

        made = rows * shape.value_dim
        predicted = self._product(part(reads), state, made, rows, "values that the state has")
        new = views.subtract(tape, part(values), predicted, "new values of a chunk")
        del predicted
        between = self._product(self._of_chunk(part(query)), state, made, rows, "read of the state")
        within = self._product(part(inside), new, made, rows, "attention within a chunk")
        read = ops.add(tape, between, within, "output of a chunk")
        del within
        output = views.copied_into(tape, output, read)
        del read
        kept = ops.mul(tape, state, part(last), "state, decayed")
        written = self._product(
            self._of_chunk(part(key)), new, shape.state, shape.state // shape.value_dim, "update"
        )
        return ops.add(tape, kept, written, "state"), output


def _gated_norm(
    decoder: Decoder, layer: Layer, x: Tensor, z: Tensor, delta: GatedDeltaSpec
) -> Tensor:
    """Mirror Qwen3_5RMSNormGated.forward."""
    tape, width, size = decoder.tape, x.width, delta.value_head_dim
    x = ops.cast(tape, x, FP32_BYTES, "gated norm: input in fp32")
    root = ops.reciprocal_root(tape, ops.mean_square(tape, x, rows=x.elements // size))
    x = ops.mul(tape, x, root, "gated norm: normalised in fp32")
    x = ops.cast(tape, x, width, "gated norm: normalised")
    weight = decoder.parameter(f"{layer.place}.delta_norm", size)
    x = ops.mul(tape, weight, x, "gated norm: scaled", on_rows=decoder.batch.device)
    z = ops.cast(tape, z, FP32_BYTES, "gated norm: gate in fp32")
    gate = ops.unary(tape, z, "silu of the gate", saves="input")
    del z
    x = ops.mul(tape, x, gate, "gated norm: gated in fp32")
    del gate
    return ops.cast(tape, x, width, "gated norm: output")
