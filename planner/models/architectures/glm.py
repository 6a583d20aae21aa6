"""ChatGLM2 and 3, GLM-4 and GLM-4-0414."""

from collections.abc import Mapping

from planner.base.phrases import Phrase
from planner.models.architectures.keys import Architecture, Config
from planner.models.architectures.llama import attention_bias, decoder
from planner.models.model_spec import ModelSpec, Norms


def _glm(config: Config, model_type: str = "glm", norms: Norms = "before") -> ModelSpec:
    return decoder(
        config,
        model_type,
        key_value_heads=2,
        head_dim=128,
        rotary_fraction=0.5,
        qkv_bias=config.flag("attention_bias", default=True),
        mlp="fused-swiglu",
        rotary="interleaved",
        norms=norms,
    )


def _glm4(config: Config) -> ModelSpec:
    return _glm(config, "glm4", norms="around")


def _chatglm(config: Config) -> ModelSpec:
    """Return the shape of ChatGLM2, ChatGLM3 and GLM-4, whose weights transformers' GLM class holds
    exactly."""
    if config.content.get("vision_config") is not None:
        raise config.error(
            Phrase(
                "vision_config: it holds a model of images beside the text model (GLM-4V), "
                "and only remote code builds both. Name a checkpoint of the text model "
                "alone, such as glm-4-9b"
            )
        )
    if config.flag("position_encoding_2d"):
        raise config.error(
            Phrase(
                "position_encoding_2d: this is the first ChatGLM-6B, which only remote code "
                "builds, and that is never run. Take chatglm2-6b or chatglm3-6b"
            )
        )
    config.refuse(
        "add_bias_linear", Phrase("the GLM class has biases for query, key and value only")
    )
    config.refuse("rmsnorm", Phrase("the GLM class has no LayerNorm"), ordinary=True)
    config.refuse(
        "quantization_bit",
        Phrase("its weights are quantized: use the original checkpoint"),
        ordinary=0,
    )
    if not config.flag("multi_query_attention"):
        raise config.error(Phrase("multi_query_attention: it must be true for the GLM class"))
    return ModelSpec(
        model_type="glm",
        num_layers=config.integer("num_layers"),
        hidden_size=config.integer("hidden_size"),
        intermediate_size=config.integer("ffn_hidden_size"),
        num_attention_heads=config.integer("num_attention_heads"),
        num_key_value_heads=config.integer("multi_query_group_num", 1),
        head_dim=config.integer("kv_channels"),
        vocab_size=config.integer("padded_vocab_size"),
        max_position_embeddings=config.integer("seq_length"),
        qkv_bias=config.flag("add_qkv_bias"),
        tied_embeddings=config.flag("tie_word_embeddings"),
        mlp="fused-swiglu",
        rotary_fraction=0.5,
        rotary="interleaved",
    )


ARCHITECTURES: Mapping[str, Architecture] = {
    "chatglm": Architecture(native_class=None, read=_chatglm),
    "glm": Architecture(native_class="GlmForCausalLM", read=_glm, written=attention_bias),
    "glm4": Architecture(native_class="Glm4ForCausalLM", read=_glm4, written=attention_bias),
}
