"""A Llama model whose norms, rotation and loss are fms-acceleration's Triton kernels.

read: foundation-model-stack/fms-acceleration, plugins/fused-ops-and-kernels at v0.6.4,
kernels/unsloth: each kernel writes into what it is given where it can. RMS norm keeps its input and
a root for each row, its gradient overwrites the incoming one, and its weight gets none
(rms_layernorm.py). The rotation overwrites queries and keys, and their gradients
(rope_embedding.py). The loss keeps its logits, which their gradient overwrites
(cross_entropy_loss.py).
"""

from functools import partial

from planner.base.units import FP32_BYTES, ceil_div
from planner.forward.decoder import Layer
from planner.forward.embeddings import embedded
from planner.forward.feed_forward import feed_forward
from planner.forward.model_pass import ModelPass
from planner.forward.self_attention import attend
from planner.tape import operators as ops
from planner.tape.operators import INT64
from planner.tape.tensors import Parameter, Tensor


class TritonPass(ModelPass):
    """The pass with the kernels that are called ``foak``."""

    def _backbone(self, table: Parameter) -> Tensor:
        tape, decoder = self.tape, self._decoder
        x, _held = embedded(decoder, table, needs_gradient=True)
        _position_ids = tape.new(self._batch.sequence_length, INT64, "position ids")
        _tables = decoder.rotary_tables(table.width)
        for number, passed in enumerate(self._layers):
            tape.border()
            x = tape.checkpoint(partial(self._layer, Layer(f"layers.{number}", passed.kind)), x)
        tape.border()
        return self._norm(x, "norm")

    def _layer(self, layer: Layer, x: Tensor) -> Tensor:
        """Mirror LlamaDecoderLayer.forward."""
        residual = x
        x = self._attended(layer, self._norm(x, "input_layernorm"))
        x = self._added(residual, x, "residual after attention")
        residual = x
        x = self._norm(x, "post_attention_layernorm")
        x = self._mlp(layer, x)
        return self._added(residual, x, "residual after the MLP")

    def _mlp(self, layer: Layer, x: Tensor) -> Tensor:
        experts = self._workload.model.experts
        routed = None if experts is None else self._decoder.own_mixture(layer, x, experts)
        return feed_forward(self._decoder, layer, x) if routed is None else routed

    def _attended(self, layer: Layer, x: Tensor) -> Tensor:
        """Mirror LlamaFlashAttention2.forward: rotated in place, queries and keys are no others."""
        q, k, v = (self._decoder.linear(layer, f"{name}_proj", x) for name in "qkv")
        attended, _weights = attend(self._decoder, layer, q, k, v)
        return self._decoder.linear(layer, "o_proj", attended)

    def _added(self, residual: Tensor, x: Tensor, name: str) -> Tensor:
        if self._workload.model.multipliers:
            x = ops.unary(self.tape, x, "scaled block")
        return ops.add(self.tape, residual, x, name)

    def _norm(self, x: Tensor, name: str) -> Tensor:
        tape, rows = self.tape, self._batch.tokens
        output = tape.new(x.elements, x.width, f"{name}: output")
        root = tape.new(rows, FP32_BYTES, f"{name}: roots")

        def backward(gradient: Tensor) -> list[Tensor | None]:
            return [gradient.viewed()]

        return tape.record(output, (x,), (x, root), backward)

    def _stock_loss(self, head: Parameter, bias: Parameter | None, x: Tensor) -> Tensor:
        """Mirror FastForCausalLMLoss, or the model's own loss with FastCrossEntropyLoss."""
        tape = self.tape
        logits = self._logits(head, bias, x)
        in_fp32 = ops.cast(tape, logits, FP32_BYTES, "logits in fp32")
        if self._numerics.cross_entropy == "logits shifted in fp32":
            logits = in_fp32
        shifted = ops.slice_of(tape, in_fp32, in_fp32.elements)
        shifted = ops.contiguous(tape, shifted, "logits but the last")
        loss = self._overwriting_loss(shifted)
        del in_fp32, shifted
        if self._numerics.output_in_fp32:
            logits = ops.cast(tape, logits, FP32_BYTES, "logits of the output in fp32")
        return loss

    def _overwriting_loss(self, logits: Tensor) -> Tensor:
        tape, rows = self.tape, self._batch.tokens
        losses = tape.new(rows, FP32_BYTES, "losses")
        sums = tape.new(rows, FP32_BYTES, "logarithms of the sums")

        def backward(_gradient: Tensor) -> list[Tensor | None]:
            return [logits.viewed()]

        losses = tape.record(losses, (logits,), (logits, sums), backward)
        return ops.mean(tape, losses, rows=1)


class ChunkedTritonPass(TritonPass):
    """The same with Liger's loss by parts, which makes all gradients in forward.

    read: fused_ops/liger_ce/fused_linear_cross_entropy_loss.py: the variables of a part live until
    those of the next one take their names.
    """

    def _stock_loss(self, head: Parameter, bias: Parameter | None, x: Tensor) -> Tensor:
        tape, tokens = self.tape, self._batch.tokens
        shifted = ops.slice_of(tape, x, x.elements)
        shifted = ops.contiguous(tape, shifted, "hidden states but the last")
        elements, width, trains = shifted.elements, shifted.width, head.trains
        made = tape.new(elements, width, "gradient of the head's input")
        of_head = tape.new(head.elements, width, "gradient of the head") if trains else None
        losses = tape.new(tokens, FP32_BYTES, "losses")
        self._parts(elements // tokens)
        loss = tape.new(1, FP32_BYTES, "loss")
        del losses

        def backward(_gradient: Tensor) -> list[Tensor | None]:
            return [made.viewed(), None if of_head is None else of_head.viewed()]

        saved = (made,) if of_head is None else (made, of_head)
        return tape.record(loss, (shifted, head), saved, backward)

    def _parts(self, h: int) -> None:
        """Go through the tokens as the forward pass does, part by part."""
        tape, vocabulary = self.tape, self._workload.model.vocab_size
        rows = next_power_of_2(ceil_div(self._batch.tokens, ceil_div(vocabulary, h)))
        logits: Tensor | None = None
        scaled: Tensor | None = None
        for _start in range(0, self._batch.tokens, rows):
            logits = tape.new(rows * vocabulary, 2, "logits of a part")
            logits = tape.new(rows * vocabulary, FP32_BYTES, "logits of a part in fp32")
            logits = tape.new(rows * vocabulary, 2, "gradient of a part's logits")
            scaled = tape.new(rows * vocabulary, 2, "gradient of a part's logits, scaled")
            _product = tape.new(rows * h, 2, "gradient of a part's input")
            del _product
        del logits, scaled


def next_power_of_2(n: int) -> int:
    return 1 << (n - 1).bit_length()
