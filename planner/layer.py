"""Decoder layers, as transformers 5.23 writes them, on a tape of sizes."""

from planner import operators as ops
from planner.decoder import Decoder, Layer
from planner.feed_forward import feed_forward
from planner.norms import norm
from planner.rotary import Tables
from planner.self_attention import self_attention
from planner.tensors import Tensor


def decoder_layer(decoder: Decoder, layer: Layer, x: Tensor, tables: Tables) -> Tensor:
    """LlamaDecoderLayer.forward; Glm4DecoderLayer.forward where norms are around."""
    place, tape = layer.place, decoder.tape
    around = decoder.workload.model.norms == "around"
    residual = x
    x = norm(decoder, f"{place}.input_layernorm", x)
    x, _weights = self_attention(decoder, layer, x, tables)
    if around:
        x = norm(decoder, f"{place}.post_self_attn_layernorm", x)
    x = ops.add(tape, residual, x, "residual after attention")
    residual = x
    x = norm(decoder, f"{place}.post_attention_layernorm", x)
    x = feed_forward(decoder, layer, x)
    if around:
        x = norm(decoder, f"{place}.post_mlp_layernorm", x)
    return ops.add(tape, residual, x, "residual after the MLP")
