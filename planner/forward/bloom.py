"""Bloom's attention and layers, as transformers 5.23 writes them, on a tape of sizes."""

from planner.forward.decoder import Decoder, Layer
from planner.forward.norms import norm
from planner.tape import operators as ops
from planner.tape.attention_kernels import softmax
from planner.tape.tape import Tape
from planner.tape.tensors import Tensor

RETURNS_WEIGHTS = ("bloom",)
"""Architectures whose layers return their attention weights, which the loop over layers holds while
the next one runs."""


def bloom_layer(decoder: Decoder, layer: Layer, x: Tensor) -> Tensor:
    """Mirror BloomBlock.forward; BloomModel.forward holds the weights that it returns, too."""
    place, tape, residual = layer.place, decoder.tape, x
    x = norm(decoder, f"{place}.input_layernorm", x)
    attended, weights = _attention(decoder, layer, x, residual)
    x = norm(decoder, f"{place}.post_attention_layernorm", attended)
    fed = _gelu(tape, decoder.linear(layer, "up_proj", x))
    fed = decoder.residual_dropout(decoder.linear(layer, "down_proj", fed))
    output = ops.add(tape, attended, fed, "residual after the MLP")
    if not tape.recomputes:
        decoder.beside = weights
    return output


def _attention(
    decoder: Decoder, layer: Layer, x: Tensor, residual: Tensor
) -> tuple[Tensor, Tensor]:
    """Mirror BloomAttention.forward, whose variables hold the scores to its end."""
    model, tape, batch = decoder.workload.model, decoder.tape, decoder.batch
    fused = decoder.linear(layer, "qkv_proj", x)
    q, k, v = (ops.slice_of(tape, fused, batch.tokens * model.query_size) for _ in range(3))
    k, v = decoder.cached(k, v)
    if batch.micro_batch_size > 1:
        q, k, v = (ops.contiguous(tape, each, "operand of a batched product") for each in (q, k, v))
    width = decoder.numerics.compute if decoder.numerics.autocast else q.width
    q, k, v = (ops.cast(tape, each, width, "operand of attention, cast") for each in (q, k, v))
    size = batch.scores * model.num_attention_heads
    _scores = _scaled_product(tape, q, k, size, model.head_dim)
    masked = ops.unary(tape, _scores, "masked scores")
    weights = softmax(tape, masked, device=batch.device)
    weights = ops.cast(tape, weights, q.width, "attention weights")
    rows = batch.tokens * model.num_attention_heads
    attended = ops.matmul(tape, weights, v, q.elements, "attention output", rows=rows)
    attended = ops.contiguous(tape, attended, "attention output, heads merged")
    attended = decoder.residual_dropout(decoder.linear(layer, "o_proj", attended))
    return ops.add(tape, residual, attended, "residual after attention"), weights


def _scaled_product(tape: Tape, q: Tensor, k: Tensor, elements: int, head_dim: int) -> Tensor:
    """Mirror ``alibi.baddbmm(q, k, alpha)``: each gradient is a product, then scaled."""
    sizes = ((q.elements, q.width), (k.elements, k.width))
    work = 2 * elements * head_dim, q.width * (q.elements + k.elements + elements), q.width

    def backward(_gradient: Tensor) -> list[Tensor | None]:
        made: list[Tensor | None] = []
        for size, width in sizes:
            tape.multiplies(*work)
            product = tape.new(size, width, "gradient of an operand of the scores")
            made.append(tape.new(size, width, "gradient of an operand of the scores, scaled"))
            del product
        return made

    tape.multiplies(*work)
    return tape.record(tape.new(elements, q.width, "scores"), (q, k), (q, k), backward)


def _gelu(tape: Tape, x: Tensor) -> Tensor:
    """Mirror GeLUFunction, an autograd.Function in Python: its steps are tensors that are not
    saved."""
    elements, width = x.elements, x.width

    def step() -> Tensor:
        return tape.new(elements, width, "step of gelu")

    def tanh() -> Tensor:
        """Mirror ``torch.tanh(0.79788456 * x * (1 + 0.044715 * x * x))``."""
        outer, scaled = step(), step()
        squared = step()
        del scaled
        shifted = step()
        del squared
        _argument = step()
        del outer, shifted
        return step()

    def slope() -> Tensor:
        """Mirror the rest of bloom_gelu_back before the output's gradient."""
        half, squared = step(), step()
        falling = step()
        del squared
        scaled = step()
        product = step()
        del scaled
        shifted = step()
        del product
        inner = step()
        del falling, shifted
        _first = step()
        del half, inner
        raised = step()
        _second = step()
        del raised
        return step()

    def backward(_gradient: Tensor) -> list[Tensor | None]:
        _curve = tanh()
        _slope = slope()
        return [tape.new(elements, width, "gradient of gelu")]

    _half, curve = step(), tanh()
    _raised = step()
    del curve
    return tape.record(tape.new(elements, width, "gelu"), (x,), (x,), backward)
