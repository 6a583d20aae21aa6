"""MiniCPM3: the latent attention of DeepSeek-V2 in a Llama whose blocks are scaled."""

from collections.abc import Mapping
from typing import Any

from msgspec import structs

from planner.base.phrases import Phrase
from planner.models.architectures.deepseek import latent_attention, latent_keys
from planner.models.architectures.keys import Architecture, Config
from planner.models.architectures.llama import attention_bias, decoder, hidden_act
from planner.models.expert_shape import LatentAttentionSpec
from planner.models.model_spec import ModelSpec


def _minicpm3(config: Config) -> ModelSpec:
    config.refuse("mlp_bias", Phrase("biases in the MLP are not counted"))
    bias = config.flag("attention_bias")
    heads = config.integer("num_attention_heads")
    assumed = LatentAttentionSpec(
        q_lora_rank=768,
        kv_lora_rank=256,
        qk_nope_head_dim=64,
        qk_rope_head_dim=32,
        v_head_dim=config.integer("hidden_size") // heads,
    )
    latent = latent_attention(config, assumed)
    spec = decoder(
        config,
        "minicpm3",
        key_value_heads=40,
        tied_embeddings=True,
        qkv_bias=bias,
        output_bias=bias,
        scaled_embeddings=True,
        scaled_blocks=True,
        latent=latent,
    )
    return structs.replace(spec, head_dim=latent.qk_rope_head_dim)


def _keys(spec: ModelSpec) -> dict[str, Any]:
    return {**attention_bias(spec), **hidden_act(spec), **latent_keys(spec)}


ARCHITECTURES: Mapping[str, Architecture] = {
    "minicpm3": Architecture(native_class="MiniCPM3ForCausalLM", read=_minicpm3, written=_keys),
}
