"""Multi-head latent attention, as transformers 5.23 writes it, on a tape of sizes."""

from planner.base.units import FP32_BYTES
from planner.forward.decoder import Decoder, Layer
from planner.forward.indexer import chosen_keys, mask_of_chosen
from planner.forward.norms import norm
from planner.forward.rotary import Tables, turned, turned_pairs
from planner.models.expert_shape import LatentAttentionSpec
from planner.tape import operators as ops
from planner.tape import view_operators as views
from planner.tape.attention_kernels import eager_attention, fused_attention
from planner.tape.attention_workspaces import HeadShape
from planner.tape.tensors import Tensor

HANDS_ON_CHOSEN = ("glm_moe_dsa",)
"""Architectures whose layers hand the keys that they have chosen to the next layer, as an argument
that checkpointing holds; read: transformers/models/glm_moe_dsa/modeling_glm_moe_dsa.py at 5.23."""


def latent_attention(
    decoder: Decoder, layer: Layer, x: Tensor, tables: Tables, latent: LatentAttentionSpec
) -> tuple[Tensor, Tensor | None]:
    """Mirror DeepseekV2Attention.forward, DeepseekV3Attention.forward and
    MiniCPM3Attention.forward."""
    tape, place, tokens = decoder.tape, layer.place, decoder.batch.tokens
    heads = decoder.workload.model.num_attention_heads
    nope, rope = latent.qk_nope_head_dim, latent.qk_rope_head_dim
    latent_q = _latent_queries(decoder, layer, x, latent)
    q = _queries(decoder, layer, x, latent_q)
    if latent.indexer is None:
        latent_q = None
    q_nope, q_rope = views.split(tape, q, [tokens * heads * nope, tokens * heads * rope])
    compressed = decoder.linear(layer, "kv_a_proj_with_mqa", x)
    kv, k_rope = views.split(tape, compressed, [tokens * latent.kv_lora_rank, tokens * rope])
    k_nope = norm(decoder, f"{place}.kv_a_layernorm", kv, latent.kv_lora_rank)
    q_rope, k_rope = _turned(decoder, q_rope, tables), _turned(decoder, k_rope, tables)
    k_nope, k_rope = decoder.cached(k_nope, k_rope)
    query = ops.concatenate(tape, (q_nope, q_rope), "query")
    key, value = _expanded(decoder, layer, k_nope, k_rope, latent)
    if latent.indexer is not None:
        chosen = chosen_keys(decoder, layer, x, latent_q, tables, latent)
        _mask = mask_of_chosen(decoder, chosen)
        if decoder.workload.model.model_type in HANDS_ON_CHOSEN and not decoder.tape.recomputes:
            decoder.beside = chosen
    attended, weights = _attend(decoder, layer, query, key, value, latent)
    return decoder.linear(layer, "o_proj", attended), weights


def _latent_queries(
    decoder: Decoder, layer: Layer, x: Tensor, latent: LatentAttentionSpec
) -> Tensor | None:
    """Return what queries are made of; None where they are projected directly."""
    if latent.q_lora_rank is None:
        return None
    x = decoder.linear(layer, "q_a_proj", x)
    return norm(decoder, f"{layer.place}.q_a_layernorm", x, latent.q_lora_rank)


def _queries(decoder: Decoder, layer: Layer, x: Tensor, latent_q: Tensor | None) -> Tensor:
    if latent_q is None:
        return decoder.linear(layer, "q_proj", x)
    return decoder.linear(layer, "q_b_proj", latent_q)


def _turned(decoder: Decoder, x: Tensor, tables: Tables) -> Tensor:
    """Mirror ``apply_rotary_emb``: a product of complex numbers, in fp32; DeepSeek-V3's is in
    pairs, MiniCPM3's is Llama's."""
    tape, width = decoder.tape, x.width
    if decoder.workload.model.rotary == "pairs":
        return turned_pairs(tape, x, tables)
    if decoder.workload.model.rotary == "halves":
        return turned(tape, x, tables)
    x = ops.cast(tape, x, FP32_BYTES, "rotary: in fp32")
    x = ops.mul(tape, x, tables[0], "rotary: x turned")
    return ops.cast(tape, x, width, "rotated")


def _expanded(
    decoder: Decoder, layer: Layer, k_nope: Tensor, k_rope: Tensor, latent: LatentAttentionSpec
) -> tuple[Tensor, Tensor]:
    """Mirror ``expand_kv``: keys and values of every head from the latent that they share."""
    tape, heads = decoder.tape, decoder.workload.model.num_attention_heads
    rows = decoder.batch.tokens * heads
    both = decoder.linear(layer, "kv_b_proj", k_nope)
    sizes = [rows * latent.qk_nope_head_dim, rows * latent.v_head_dim]
    k_nope, value = views.split(tape, both, sizes)
    k_rope = views.expanded(tape, k_rope, heads)
    return views.filled(tape, (k_nope, k_rope), "key"), value


def _attend(
    decoder: Decoder, layer: Layer, q: Tensor, k: Tensor, v: Tensor, latent: LatentAttentionSpec
) -> tuple[Tensor, Tensor | None]:
    """Return the output and the weights; on CUDA it is the memory efficient kernel, which alone
    takes values of another width."""
    model, batch, kinds = decoder.workload.model, decoder.batch, decoder.numerics
    shape = HeadShape(
        batch=batch.micro_batch_size,
        length=batch.sequence_length,
        heads=model.num_attention_heads,
        key_value_heads=model.num_attention_heads,
        head_dim=latent.qk_head_dim,
        value_dim=latent.v_head_dim,
    )
    tape, device = decoder.tape, batch.device
    if decoder.workload.attention == "eager":
        return eager_attention(
            tape,
            q,
            k,
            v,
            shape=shape,
            device=device,
            compute=kinds.compute if kinds.autocast else None,
            mask_width=decoder.residual_width,
            capped=False,
        )
    masked = decoder.masked(layer.kind)
    bias = tape.new(batch.scores, q.width, "attention mask as a bias") if masked else None
    attended = fused_attention(
        tape,
        q,
        k,
        v,
        bias,
        shape=shape,
        device=device,
        capability=batch.compute_capability,
        multiprocessors=batch.multiprocessors,
    )
    return attended, None
