"""Mamba mixers, as transformers 5.23 writes them, on a tape of sizes.

The recurrence is the one in PyTorch's operators, which runs where no kernel of another package is
installed: a loop over all tokens, each of which saves the state that it has found. What two tokens
save, any two do, so that a few are written out, and one of them stands for all between.
"""

from typing import NamedTuple

from planner.base.units import FP32_BYTES
from planner.forward.decoder import Decoder, Layer
from planner.forward.norms import norm
from planner.forward.recurrent.convolution import convolution, without_padding
from planner.models.recurrent_shape import MambaSpec
from planner.tape import operators as ops
from planner.tape import recurrence_operators as recurrence
from planner.tape import view_operators as views
from planner.tape.tape import Tape
from planner.tape.tensors import Tensor

WRITTEN_OUT = 4
"""Tokens of the loop that are written out beside the one that stands for all others: the first,
which finds no state, and the last ones, whose gradients come while all others' states are kept."""


class _Operands(NamedTuple):
    """What the recurrence is given: the channels' inputs, time steps, rates of decay, by what the
    state is written and read, and the gate."""

    x: Tensor
    steps: Tensor
    rates: Tensor
    write: Tensor
    read: Tensor
    gate: Tensor


def mamba_mixer(decoder: Decoder, layer: Layer, x: Tensor, mamba: MambaSpec) -> Tensor:
    """Mirror JambaMambaMixer.forward, whose variables hold what they have got to its end."""
    tape, tokens, width, place = decoder.tape, decoder.batch.tokens, x.width, layer.place
    x = without_padding(decoder, x)
    projected = decoder.linear(layer, "in_proj", x)
    rates = _rates(decoder, layer, mamba)
    x, gate = views.split(tape, projected, [projected.elements // 2] * 2)
    x = convolution(
        decoder,
        layer,
        x,
        channels=mamba.inner_size,
        kernel_size=mamba.kernel_size,
        bias=mamba.convolution_bias,
    )
    x = without_padding(decoder, x)
    parts = views.split(
        tape,
        decoder.linear(layer, "x_proj", x, by_channel=True),
        [tokens * size for size in mamba.projected_sizes],
    )
    names = ("dt_layernorm", "b_layernorm", "c_layernorm")
    steps, write, read = [
        norm(decoder, f"{place}.{name}", part, size)
        for name, part, size in zip(names, parts, mamba.projected_sizes, strict=True)
    ]
    steps = _time_steps(decoder, layer, steps, mamba)
    bias = ops.cast(tape, _bias(decoder, layer, mamba), FP32_BYTES, "time steps' bias in fp32")
    operands = _Operands(x, steps, rates, write, read, gate)
    output = _Scan(decoder, layer, mamba).scanned(operands, bias)
    decoder.keep_state(mamba)
    output = ops.cast(tape, output, width, "output of the mixer, cast")
    return decoder.linear(layer, "out_proj", output, by_channel=True)


def _rates(decoder: Decoder, layer: Layer, mamba: MambaSpec) -> Tensor:
    """Return ``-torch.exp(A_log.float())``."""
    tape = decoder.tape
    logarithm = decoder.parameter(f"{layer.place}.A_log", mamba.state_elements)
    rates = ops.cast(tape, logarithm, FP32_BYTES, "A_log in fp32")
    rates = ops.unary(tape, rates, "exp(A_log)", saves="output")
    return ops.unary(tape, rates, "-exp(A_log)")


def _bias(decoder: Decoder, layer: Layer, mamba: MambaSpec) -> Tensor:
    return decoder.parameter(f"{layer.place}.dt_proj.bias", mamba.inner_size)


def _time_steps(decoder: Decoder, layer: Layer, x: Tensor, mamba: MambaSpec) -> Tensor:
    """Return the projected time steps without their bias, which a packed matrix has added; else
    ``weight @ x.transpose(1, 2)``, whose product is copied into the channels' order."""
    tape, place = decoder.tape, layer.place
    if decoder.workload.settings.quantization is not None:
        projected = decoder.linear(layer, "dt_proj", x)
        bias = _bias(decoder, layer, mamba)
        return views.subtract(tape, projected, bias, "time steps without their bias")
    weight = decoder.parameter(f"{place}.dt_proj", mamba.step_rank * mamba.inner_size, matrix=True)
    product = decoder.product(weight, x, mamba.inner_size, "dt_proj", is_transposed=True)
    return ops.contiguous(tape, product, "time steps by channel")


class _Scan:
    """The steps of mamba_selective_scan."""

    def __init__(self, decoder: Decoder, layer: Layer, mamba: MambaSpec) -> None:
        self._decoder = decoder
        self._layer = layer
        self._mamba = mamba
        self._tape: Tape = decoder.tape
        self._compute = decoder.numerics.compute if decoder.numerics.autocast else None
        self._length = decoder.batch.sequence_length
        samples = decoder.batch.micro_batch_size
        self._state = samples * mamba.state_elements
        """Elements of the states of all samples."""
        self._channels = samples * mamba.inner_size
        self._read = samples * mamba.state_size

    def scanned(self, given: _Operands, bias: Tensor) -> Tensor:
        """Return the output of all tokens, in fp32."""
        tape, x = self._tape, given.x
        passing = self._decoder.parameter(f"{self._layer.place}.D", self._mamba.inner_size)
        weight = ops.cast(tape, passing, FP32_BYTES, "D in fp32")
        whole = self._state * self._length
        steps = self._time_steps(given.steps, bias)
        decay = ops.unary(
            tape,
            recurrence.outer(tape, given.rates, steps, whole, "rates by time step"),
            "decay",
            saves="output",
        )
        write = ops.cast(tape, given.write, FP32_BYTES, "writes in fp32")
        by_step = recurrence.outer(tape, steps, write, whole, "writes by time step")
        del write
        written = ops.mul(
            tape, by_step, ops.cast(tape, x, FP32_BYTES, "channels' input in fp32"), "written"
        )
        outputs = self._outputs(decay, written, given.read, x.width)
        output = ops.concatenate(tape, outputs, "output of the scan")
        beside = ops.mul(tape, x, weight, "channels' input that passes by")
        output = ops.add(tape, output, beside, "output with what passes by")
        del beside
        opened = ops.unary(tape, given.gate, "silu of the gate", saves="input")
        return ops.mul(tape, output, opened, "output of the scan, gated")

    def _time_steps(self, steps: Tensor, bias: Tensor) -> Tensor:
        """Return ``softplus(dt + delta_bias.to(dt.dtype))``; CUDA's autocast takes softplus in
        fp32."""
        tape = self._tape
        bias = ops.cast(tape, bias, steps.width, "time steps' bias in their dtype")
        steps = ops.add(tape, steps, bias, "time steps and their bias")
        in_fp32 = self._decoder.pow_width
        if in_fp32 is not None:
            steps = ops.cast(tape, steps, in_fp32, "time steps in fp32")
        return ops.unary(tape, steps, "softplus", saves="input")

    def _outputs(
        self, decay: Tensor, written: Tensor, read: Tensor, width: int
    ) -> tuple[Tensor, ...]:
        """Return what each token reads of the state; the second token stands for those that are
        not written out."""
        tape = self._tape
        others = max(0, self._length - WRITTEN_OUT - 1)
        state = tape.new(self._state, width, "state of no tokens")
        outputs = list[Tensor]()
        for number in range(self._length - others):
            again = others if number == 1 else 0
            with tape.repeated(1 + again):
                state, output = self._token(decay, written, read, state, width)
            outputs.append(output)
            if again:
                held, output = self._of_others(again, decay, read, state, width)
                state = recurrence.holding(tape, state, held)
                outputs.append(output)
        return tuple(outputs)

    def _token(
        self, decay: Tensor, written: Tensor, read: Tensor, state: Tensor, width: int
    ) -> tuple[Tensor, Tensor]:
        """Return the state after a token, and what it reads of it."""
        tape, size = self._tape, self._state
        left = ops.mul(tape, recurrence.of_token(tape, decay, size), state, "state, decayed")
        state = ops.add(tape, left, recurrence.of_token(tape, written, size), "state after a token")
        del left
        seen = self._operand(ops.cast(tape, state, width, "state in the input's dtype"))
        part = self._operand(recurrence.of_token(tape, read, self._read))
        output = ops.matmul(
            tape, seen, part, self._channels, "read of the state", rows=self._channels
        )
        return state, ops.slice_of(tape, output, self._channels)

    def _operand(self, x: Tensor) -> Tensor:
        if self._compute is None:
            return x
        return ops.cast(self._tape, x, self._compute, "read of the state: operand cast")

    def _of_others(
        self, count: int, decay: Tensor, read: Tensor, state: Tensor, width: int
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        """Return what so many tokens save: states, and what is cast of them and of the reads; then
        their outputs. Where nothing is kept, a state that is there anyway says that they save."""
        seen = self._compute or width
        output = self._stacked(count * self._channels, seen, "outputs of the tokens")
        saved = list[tuple[int, int, str]]()
        if decay.node is not None or (read.node is not None and seen == state.width):
            saved.append((self._state, state.width, "states of the tokens"))
        if read.node is not None and seen != state.width:
            saved.append((self._state, seen, "states of the tokens, cast"))
        if state.node is not None and seen != read.width:
            saved.append((self._read, seen, "reads of the tokens, cast"))
        if not self._tape.keeps_saved:
            return (state,) if saved else (), output
        held = (self._stacked(count * size, of, name) for size, of, name in saved)
        return tuple(held), output

    def _stacked(self, elements: int, width: int, name: str) -> Tensor:
        self._tape.fills_in_steps()
        return self._tape.new(elements, width, name)
