"""Mamba-2 mixers, as transformers 5.23 writes them, on a tape of sizes.

The recurrence is the one in PyTorch's operators, which runs where no kernel of another package is
installed: chunks of tokens at once, and the states between chunks by one product. Its products are
``torch.einsum``s, which fold samples, chunks and heads into one dimension; an operand that does not
lie that way is copied first, and so is the gradient of a result.

read: aten/src/ATen/native/Linear.cpp at 2.13, sumproduct_pair, and ATen/autocast_mode.h,
AT_FORALL_LOWER_PRECISION_FP.
"""

from typing import NamedTuple

from planner.base.units import FP32_BYTES, ceil_div
from planner.forward.decoder import Decoder, Layer
from planner.forward.recurrent.convolution import convolution, without_padding
from planner.models.recurrent_shape import Mamba2Spec
from planner.tape import operators as ops
from planner.tape import recurrence_operators as recurrence
from planner.tape import view_operators as views
from planner.tape.expert_operators import masked
from planner.tape.tape import Tape
from planner.tape.tensors import Tensor


class _Operands(NamedTuple):
    """What the recurrence is given: the heads' inputs, time steps, rates of decay, and by what the
    state is written and read."""

    x: Tensor
    steps: Tensor
    rates: Tensor
    write: Tensor
    read: Tensor


def mamba2_mixer(decoder: Decoder, layer: Layer, x: Tensor, mamba: Mamba2Spec) -> Tensor:
    """Mirror GraniteMoeHybridMambaLayer.forward and FalconH1Mixer.forward, whose variables hold
    what they have got to its end."""
    tape, tokens, width = decoder.tape, decoder.batch.tokens, x.width
    x = without_padding(decoder, x)
    if mamba.scaled:
        x = ops.unary(tape, x, "input of the mixer, scaled")
    projected = decoder.linear(layer, "in_proj", x)
    if mamba.scaled:
        projected = _scaled(decoder, projected, mamba)
    rates = _rates(decoder, layer, mamba)
    widths = (mamba.inner_size, mamba.convolved_size, mamba.heads)
    gate, mixed, steps = views.split(tape, projected, [tokens * each for each in widths])
    mixed = convolution(
        decoder,
        layer,
        mixed,
        channels=mamba.convolved_size,
        kernel_size=mamba.kernel_size,
        bias=mamba.convolution_bias,
    )
    mixed = without_padding(decoder, mixed)
    of_state = mamba.groups * mamba.state_size
    widths = (mamba.inner_size, of_state, of_state)
    x, write, read = views.split(tape, mixed, [tokens * each for each in widths])
    operands = _Operands(x, steps, rates, write, read)
    scanned = _ChunkScan(decoder, layer, mamba).scanned(operands)
    output = _gated(decoder, layer, scanned, gate, mamba)
    decoder.keep_state(mamba)
    return decoder.linear(
        layer, "out_proj", ops.cast(tape, output, width, "output of the mixer, cast")
    )


def _scaled(decoder: Decoder, projected: Tensor, mamba: Mamba2Spec) -> Tensor:
    """Return the projection times a number for each of its parts: a buffer as wide as itself, in
    the dtype that the model was loaded in."""
    numbers = Tensor(mamba.projected_size, decoder.residual_width, None, None)
    return ops.mul(decoder.tape, projected, numbers, "projection, scaled")


def _rates(decoder: Decoder, layer: Layer, mamba: Mamba2Spec) -> Tensor:
    """Return ``-torch.exp(A_log.float())``."""
    tape = decoder.tape
    logarithm = decoder.parameter(f"{layer.place}.A_log", mamba.heads)
    rates = ops.cast(tape, logarithm, FP32_BYTES, "A_log in fp32")
    rates = ops.unary(tape, rates, "exp(A_log)", saves="output")
    return ops.unary(tape, rates, "-exp(A_log)")


class _ChunkScan:
    """The steps of mamba2_chunk_scan."""

    def __init__(self, decoder: Decoder, layer: Layer, mamba: Mamba2Spec) -> None:
        self._decoder = decoder
        self._layer = layer
        self._mamba = mamba
        self._tape: Tape = decoder.tape
        self._compute = decoder.numerics.compute if decoder.numerics.autocast else None
        self._casts_first = decoder.batch.device == "cuda"
        self._samples = decoder.batch.micro_batch_size
        self._chunks = ceil_div(decoder.batch.sequence_length, mamba.chunk_size)
        self._rows = self._samples * self._chunks * mamba.chunk_size * mamba.heads
        """Tokens of all heads, filled up to whole chunks."""

    def scanned(self, given: _Operands) -> Tensor:
        """Return the output of all tokens, in fp32."""
        tape, mamba = self._tape, self._mamba
        x, steps, rates, write, read = given
        steps = self._time_steps(steps)
        x = ops.cast(tape, x, FP32_BYTES, "heads' input in fp32")
        write, read = self._of_heads(write), self._of_heads(read)
        passing = self._passing(x)
        in_fp32 = ops.cast(tape, steps, FP32_BYTES, "time steps in fp32")
        x = ops.mul(tape, x, in_fp32, "heads' input by time step")
        in_fp32 = ops.cast(tape, steps, FP32_BYTES, "time steps in fp32")
        decay = ops.mul(tape, rates, in_fp32, "decay")
        del in_fp32
        widths = (mamba.head_dim, 1, mamba.state_size, mamba.state_size)
        x, decay, write, read = [
            self._in_chunks(each, size)
            for each, size in zip((x, decay, write, read), widths, strict=True)
        ]
        total = recurrence.cumulative_sum(tape, decay, "summed decay")
        pairwise = self._exp(self._segment_sums(decay, mamba.chunk_size))
        scores = self._scores(read, write)
        weighed = ops.mul(tape, scores, pairwise, "weighed scores of a chunk")
        within = self._within(weighed, x)
        rest = self._exp(self._to_the_end(total))
        decayed = ops.mul(tape, write, rest, "writes, decayed")
        states = self._states(x, decayed)
        before = tape.new(states.elements // self._chunks, states.width, "state of no tokens")
        states = ops.concatenate(tape, (before, states), "states of the chunks")
        between = self._between(total)
        passed = self._passed(between, states)
        states = ops.slice_of(tape, passed, states.elements - before.elements)
        gone = self._exp(total)
        from_states = self._from_states(read, states)
        off = ops.mul(tape, from_states, gone, "read of the states, decayed")
        output = ops.contiguous(
            tape, ops.add(tape, within, off, "output of the chunks"), "output, made contiguous"
        )
        output = ops.add(tape, output, passing, "output of the scan")
        size = self._decoder.batch.tokens * mamba.inner_size
        return output if output.elements == size else ops.slice_of(tape, output, size)

    def _parameter(self, name: str) -> Tensor:
        return self._decoder.parameter(f"{self._layer.place}.{name}", self._mamba.heads)

    def _time_steps(self, steps: Tensor) -> Tensor:
        """Return ``clamp(softplus(dt + dt_bias.to(dt.dtype)))``; CUDA's autocast takes softplus in
        fp32."""
        tape = self._tape
        bias = ops.cast(tape, self._parameter("dt_bias"), steps.width, "dt_bias in their dtype")
        steps = ops.add(tape, steps, bias, "time steps and their bias")
        in_fp32 = self._decoder.pow_width
        if in_fp32 is not None:
            steps = ops.cast(tape, steps, in_fp32, "time steps in fp32")
        steps = ops.unary(tape, steps, "softplus", saves="input")
        return ops.unary(tape, steps, "time steps within their limits", saves="input")

    def _of_heads(self, x: Tensor) -> Tensor:
        """Mirror ``x.float().repeat_interleave(...)``, which copies in any case."""
        tape, times = self._tape, self._mamba.heads // self._mamba.groups
        x = ops.cast(tape, x, FP32_BYTES, "reads or writes in fp32")
        if times > 1:
            x = views.expanded(tape, x, times)
        return ops.contiguous(tape, x, "reads or writes of every head")

    def _passing(self, x: Tensor) -> Tensor:
        """Return what passes by the recurrence: each head's input times a number."""
        tape, size = self._tape, self._rows * self._mamba.head_dim
        return ops.mul(
            tape,
            self._parameter("D"),
            recurrence.padded(tape, x, size, "heads' input of whole chunks"),
            "heads' input that passes by",
        )

    def _in_chunks(self, x: Tensor, width: int) -> Tensor:
        """Mirror reshape_into_chunks: the gradient, which lies head by head, is copied back."""
        tape = self._tape
        x = recurrence.padded(tape, x, self._rows * width, "operand of whole chunks")
        if self._chunks == 1 or width == 1:
            return x
        return views.reordered(tape, x, "operand of whole chunks")

    def _exp(self, x: Tensor) -> Tensor:
        return ops.unary(self._tape, x, "exp of a decay", saves="output")

    def _segment_sums(self, x: Tensor, size: int) -> Tensor:
        """Mirror segment_sum, whose variables hold the operand of the sum."""
        tape, name = self._tape, "decay between tokens"
        mask = tape.new(size * size, 1, f"mask of {name}")
        x = masked(tape, views.expanded(tape, x, size), name, mask_elements=size * size)
        sums = recurrence.cumulative_sum(tape, x, "summed decay between tokens")
        mask = tape.new(size * size, 1, f"mask of {name}")
        sums = masked(tape, sums, name, mask_elements=size * size)
        del mask
        return sums

    def _to_the_end(self, total: Tensor) -> Tensor:
        """Return ``A_cumsum[..., -1:] - A_cumsum``."""
        tape = self._tape
        end = ops.slice_of(tape, total, total.elements // self._mamba.chunk_size)
        return views.subtract(tape, end, total, "decay to the end of a chunk")

    def _between(self, total: Tensor) -> Tensor:
        """Return the decay between the ends of every two chunks, the state before them first."""
        tape, ends = self._tape, self._chunks + 1
        end = ops.slice_of(tape, total, total.elements // self._mamba.chunk_size)
        size = self._samples * self._mamba.heads * ends
        end = recurrence.padded(tape, end, size, "decay of whole chunks")
        return self._exp(self._segment_sums(end, ends))

    # --- products -------------------------------------------------------------------------

    def _scores(self, read: Tensor, write: Tensor) -> Tensor:
        """Return "bclhn,bcshn->bclsh"."""
        return self._product(
            (read, write),
            (self._folds_many, self._folds_many),
            self._rows * self._mamba.chunk_size,
            self._rows,
            "scores of a chunk",
        )

    def _within(self, weighed: Tensor, x: Tensor) -> Tensor:
        """Return "bclsh,bcshp->bclhp"."""
        product = self._product(
            (weighed, x),
            (False, self._chunks > 1),
            self._rows * self._mamba.head_dim,
            self._rows,
            "output within a chunk",
        )
        return self._unfolded(product, copies=self._folds_many)

    def _states(self, x: Tensor, decayed: Tensor) -> Tensor:
        """Return "bclhn,bclhp->bchpn"."""
        size = self._samples * self._chunks * self._mamba.state_elements
        product = self._product(
            (x, decayed),
            (self._chunks > 1, self._folds_many),
            size,
            size // self._mamba.state_size,
            "states of the chunks",
        )
        return self._unfolded(product, copies=self._chunks > 1)

    def _passed(self, between: Tensor, states: Tensor) -> Tensor:
        """Return "bzch,bzhpn->bchpn"."""
        rows = self._samples * self._mamba.heads * (self._chunks + 1)
        product = self._product(
            (between, states),
            (False, self._samples > 1),
            states.elements,
            rows,
            "states at the chunks' beginnings",
        )
        return self._unfolded(product, copies=self._samples > 1)

    def _from_states(self, read: Tensor, states: Tensor) -> Tensor:
        """Return "bclhn,bchpn->bclhp"."""
        product = self._product(
            (read, states),
            (self._folds_many, self._chunks > 1),
            self._rows * self._mamba.head_dim,
            self._rows,
            "read of the states",
        )
        return self._unfolded(product, copies=self._folds_many)

    @property
    def _folds_many(self) -> bool:
        """Whether samples and chunks, with the tokens between them and the heads, are no single
        dimension."""
        return self._samples * self._chunks > 1

    def _unfolded(self, x: Tensor, *, copies: bool) -> Tensor:
        return views.reordered(self._tape, x, "a product") if copies else x

    def _product(
        self,
        operands: tuple[Tensor, Tensor],
        copies: tuple[bool, bool],
        elements: int,
        rows: int,
        name: str,
    ) -> Tensor:
        """Return ``torch.einsum`` of two operands, by one ``torch.bmm``, for which ``copies`` says
        whether each is folded by a copy. CUDA's autocast casts what einsum is given, the CPU's what
        bmm is."""
        if self._casts_first:
            operands = self._cast(operands, name)
        a, b = (
            ops.contiguous(self._tape, x, "operand of a product, made contiguous") if copied else x
            for x, copied in zip(operands, copies, strict=True)
        )
        if not self._casts_first:
            a, b = self._cast((a, b), name)
        return ops.matmul(self._tape, a, b, elements, name, rows=rows)

    def _cast(self, operands: tuple[Tensor, Tensor], name: str) -> tuple[Tensor, Tensor]:
        if self._compute is None:
            return operands
        a, b = (ops.cast(self._tape, x, self._compute, f"{name}: operand cast") for x in operands)
        return a, b


def _gated(decoder: Decoder, layer: Layer, x: Tensor, gate: Tensor, mamba: Mamba2Spec) -> Tensor:
    """Mirror the norms of Granite and Falcon-H1, which differ in the order alone."""
    if mamba.gating == "plain":
        opened = ops.unary(decoder.tape, gate, "silu of the gate", saves="input")
        return ops.mul(decoder.tape, x, opened, "output of the scan, gated")
    if mamba.gating == "norm-first":
        return _opened(decoder, _normed(decoder, layer, x, mamba), gate)
    return _normed(decoder, layer, _opened(decoder, x, gate), mamba)


def _opened(decoder: Decoder, x: Tensor, gate: Tensor) -> Tensor:
    """Return ``x * silu(gate.to(torch.float32))``."""
    tape = decoder.tape
    gate = ops.cast(tape, gate, FP32_BYTES, "gated norm: gate in fp32")
    opened = ops.unary(tape, gate, "silu of the gate", saves="input")
    return ops.mul(tape, x, opened, "gated norm: gated in fp32")


def _normed(decoder: Decoder, layer: Layer, x: Tensor, mamba: Mamba2Spec) -> Tensor:
    """Return ``x``, which is in fp32, through the norm over each group."""
    tape = decoder.tape
    rows = decoder.batch.tokens * mamba.groups
    variance = ops.mean_square(tape, x, rows=rows)
    x = ops.mul(tape, x, ops.reciprocal_root(tape, variance), "gated norm: normalised in fp32")
    weight = decoder.parameter(f"{layer.place}.mixer_norm", mamba.inner_size)
    return ops.mul(tape, weight, x, "gated norm: scaled", on_rows=decoder.batch.device)
