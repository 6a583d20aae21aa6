"""Models with Mamba-2 mixers beside or instead of attention: Granite 4, Bamba, Falcon-H1,
Nemotron-H and Mamba-2 itself; and Jamba, whose mixers are Mamba's."""

from collections.abc import Mapping
from typing import Any

from msgspec import structs

from planner.base.phrases import Phrase
from planner.models.architectures.keys import ACTIVATION_NAMES, Architecture, Config
from planner.models.architectures.llama import attention_bias, decoder
from planner.models.architectures.mixture import no_router_loss
from planner.models.architectures.windows import FULL
from planner.models.expert_shape import ExpertsSpec
from planner.models.layer_kinds import (
    ATTENDING,
    BOTH,
    EXPERTS,
    MLP,
    RECURRENT,
    LayerKind,
    shortest_period,
)
from planner.models.model_spec import ModelSpec
from planner.models.recurrent_shape import Gating, Mamba2Spec

UNLIMITED = 2**20
"""Positions of a model whose configuration has no limit, as nothing in it attends."""
LINEAR = "linear_attention"
LETTERS = {LINEAR: RECURRENT, "mamba": RECURRENT, FULL: ATTENDING, "attention": ATTENDING}
"""Letters of layers by the words of ``layer_types``, those of files before transformers 5.23 among
them; read: transformers/configuration_utils.py at 5.23, remap_legacy_layer_types."""
BLOCK_LETTERS = {**LETTERS, "mlp": MLP, "moe": EXPERTS}
WORDS = {RECURRENT: LINEAR, ATTENDING: FULL}


def _layer_letters(config: Config, default: str) -> str:
    """Return the letters of ``layer_types``, which may be called ``layers_block_type``."""
    count = config.integer("num_hidden_layers")
    types = config.listed("layer_types", count) or config.listed("layers_block_type", count)
    if types is None:
        return default
    if not set(types) <= LETTERS.keys():
        key = "layer_types" if config.content.get("layer_types") else "layers_block_type"
        raise config.no_formulas(key, Phrase("such layers"))
    return shortest_period("".join(LETTERS[each] for each in types))


def _written_layers(spec: ModelSpec) -> dict[str, Any]:
    return {
        "layer_types": [WORDS[RECURRENT if kind.recurrent else ATTENDING] for kind in spec.layers]
    }


def _mamba_of(config: Config, expanded: int | None = None) -> Mamba2Spec:
    """Return the mixer by the keys that Bamba introduced, with the defaults of Granite 4;
    ``expanded`` is its width where that is no multiple of the hidden size."""
    expanded = expanded or config.integer("mamba_expand", 2) * config.integer("hidden_size")
    heads = config.integer("mamba_n_heads", 128)
    stated = config.value("mamba_d_head", "auto")
    head_dim = expanded // heads if stated == "auto" else config.integer("mamba_d_head")
    if heads * head_dim != expanded:
        raise config.error(
            Phrase(
                "mamba_n_heads ({heads}) times mamba_d_head ({head_dim}) must be {expanded}",
                heads=heads,
                head_dim=head_dim,
                expanded=expanded,
            )
        )
    bias = config.flag("mamba_proj_bias")
    return Mamba2Spec(
        heads=heads,
        head_dim=head_dim,
        groups=config.integer("mamba_n_groups", 1),
        state_size=config.integer("mamba_d_state", 256),
        kernel_size=config.integer("mamba_d_conv", 4),
        chunk_size=config.integer("mamba_chunk_size", 256),
        convolution_bias=config.flag("mamba_conv_bias", default=True),
        input_bias=bias,
        output_bias=bias,
    )


def _mamba_keys(spec: ModelSpec) -> dict[str, Any]:
    """Return the keys of the mixers; without any, one head, which divides every width, as the class
    asks for."""
    if spec.mamba is None:
        return {"mamba_n_heads": 1}
    mamba = spec.mamba
    return {
        "mamba_n_heads": mamba.heads,
        "mamba_d_head": mamba.head_dim,
        "mamba_n_groups": mamba.groups,
        "mamba_d_state": mamba.state_size,
        "mamba_d_conv": mamba.kernel_size,
        "mamba_expand": mamba.inner_size // spec.hidden_size,
        "mamba_chunk_size": mamba.chunk_size,
        "mamba_conv_bias": mamba.convolution_bias,
        "mamba_proj_bias": mamba.input_bias,
    }


def mamba_of(spec: ModelSpec) -> Mamba2Spec:
    """Return the mixers of a shape, which must have some."""
    assert spec.mamba is not None
    return spec.mamba


def _granitemoehybrid(config: Config) -> ModelSpec:
    """Return the shape of Granite 4; a model without experts has the shared one alone."""
    no_router_loss(config)
    config.refuse("hidden_act", Phrase("an activation that is not modelled"), ordinary="silu")
    bias = config.flag("attention_bias")
    shared = config.integer("shared_intermediate_size", 1024)
    rotates = config.content.get("position_embedding_type") == "rope"
    letters = _layer_letters(config, RECURRENT)
    all_attend = letters == ATTENDING
    spec = decoder(
        config,
        "granitemoehybrid",
        intermediate_size=11008,
        qkv_bias=bias,
        output_bias=bias,
        mlp="fused-swiglu",
        multipliers=True,
        positions="rotary" if rotates else "none",
        mamba=None if all_attend else _mamba_of(config),
        layer_letters=None if all_attend else letters,
    )
    count = config.count("num_local_experts", 8)
    if not count:
        return structs.replace(spec, intermediate_size=shared)
    experts = ExpertsSpec(
        num_experts=count,
        experts_per_token=config.integer("num_experts_per_tok", 2),
        intermediate_size=spec.intermediate_size,
        router="chosen-softmax-fp32",
        shared_intermediate_size=shared,
    )
    return structs.replace(spec, experts=experts)


def _granitemoehybrid_keys(spec: ModelSpec) -> dict[str, Any]:
    keys = {
        **attention_bias(spec),
        **_written_layers(spec),
        **_mamba_keys(spec),
        "position_embedding_type": "rope" if spec.positions == "rotary" else None,
    }
    if spec.experts is None:
        return keys | {
            "num_local_experts": 0,
            "shared_intermediate_size": spec.intermediate_size,
        }
    return keys | {
        "num_local_experts": spec.experts.num_experts,
        "num_experts_per_tok": spec.experts.experts_per_token,
        "intermediate_size": spec.experts.intermediate_size,
        "shared_intermediate_size": spec.experts.shared_intermediate_size,
    }


def _bamba(config: Config) -> ModelSpec:
    config.refuse("hidden_act", Phrase("an activation that is not modelled"), ordinary="silu")
    config.refuse("z_loss_coefficient", Phrase("such a loss is not modelled"), ordinary=0.0)
    bias = config.flag("attention_bias")
    attending = config.layer_numbers("attn_layer_indices")
    count = config.integer("num_hidden_layers")
    letters = (ATTENDING if number in attending else RECURRENT for number in range(count))
    return decoder(
        config,
        "bamba",
        key_value_heads=8,
        rotary_fraction=0.5,
        rotary="joined",
        qkv_bias=bias,
        output_bias=bias,
        mlp_bias=config.flag("mlp_bias"),
        mamba=_mamba_of(config),
        layer_letters=shortest_period("".join(letters)),
    )


def _bamba_keys(spec: ModelSpec) -> dict[str, Any]:
    return {
        **attention_bias(spec),
        **_mamba_keys(spec),
        "mlp_bias": spec.mlp_bias,
        "attn_layer_indices": [n for n, kind in enumerate(spec.layers) if kind.attends],
    }


def _falcon_h1(config: Config) -> ModelSpec:
    config.refuse("hidden_act", Phrase("an activation that is not modelled"), ordinary="silu")
    bias = config.flag("attention_bias")
    has_size = config.content.get("mamba_d_ssm", 1024) is not None
    mamba = _mamba_of(config, config.integer("mamba_d_ssm", 1024) if has_size else None)
    gating: Gating = "plain"
    if config.flag("mamba_rms_norm"):
        first = config.flag("mamba_norm_before_gate", default=True)
        gating = "norm-first" if first else "norm"
    return decoder(
        config,
        "falcon_h1",
        key_value_heads=8,
        qkv_bias=bias,
        output_bias=bias,
        mlp_bias=config.flag("mlp_bias"),
        multipliers=True,
        mamba=structs.replace(
            mamba, output_bias=config.flag("projectors_bias"), gating=gating, scaled=True
        ),
        layer_letters=BOTH,
    )


def _falcon_h1_keys(spec: ModelSpec) -> dict[str, Any]:
    mamba = mamba_of(spec)
    keys = _mamba_keys(spec)
    del keys["mamba_expand"]
    return {
        **attention_bias(spec),
        **keys,
        "mamba_d_ssm": mamba.inner_size,
        "mlp_bias": spec.mlp_bias,
        "projectors_bias": mamba.output_bias,
        "mamba_rms_norm": mamba.gating != "plain",
        "mamba_norm_before_gate": mamba.gating == "norm-first",
    }


def _nemotron_letters(config: Config) -> str:
    """Return the letters of ``layers_block_type``, else of the pattern that files had before."""
    for key in ("layers_block_type", "layer_types"):
        types = config.content.get(key)
        if types is not None:
            if not isinstance(types, list) or not types or not set(types) <= BLOCK_LETTERS.keys():
                raise config.no_formulas(key, Phrase("such layers"))
            return "".join(BLOCK_LETTERS[each] for each in types)
    letters = config.text("hybrid_override_pattern", "ME*-")
    if not letters or not set(letters) <= set(BLOCK_LETTERS.values()):
        raise config.no_formulas("hybrid_override_pattern", Phrase("such layers"))
    return letters


def _nemotron_mamba(config: Config) -> Mamba2Spec:
    config.refuse("mamba_hidden_act", Phrase("an activation that is not modelled"), ordinary="silu")
    bias = config.flag("use_bias")
    return Mamba2Spec(
        heads=config.integer("mamba_num_heads", 128),
        head_dim=config.integer("mamba_head_dim", 64),
        groups=config.either("mamba_n_groups", "n_groups", 8),
        state_size=config.integer("ssm_state_size", 128),
        kernel_size=config.either("mamba_d_conv", "conv_kernel", 4),
        chunk_size=config.either("mamba_chunk_size", "chunk_size", 128),
        convolution_bias=config.flag(
            "mamba_conv_bias", default=config.flag("use_conv_bias", default=True)
        ),
        input_bias=bias,
        output_bias=bias,
    )


def _nemotron_experts(config: Config) -> ExpertsSpec:
    no_router_loss(config)
    return ExpertsSpec(
        num_experts=config.either("num_local_experts", "n_routed_experts", 8),
        experts_per_token=config.integer("num_experts_per_tok", 2),
        intermediate_size=config.integer("moe_intermediate_size", 7688),
        router="sigmoid",
        normalized=config.flag("norm_topk_prob", default=True),
        num_groups=config.integer("n_group", 1),
        chosen_groups=config.integer("topk_group", 1),
        shared_intermediate_size=config.integer("moe_shared_expert_intermediate_size", 7688),
        gated=False,
        latent_size=0
        if config.content.get("moe_latent_size") is None
        else config.integer("moe_latent_size"),
    )


def _nemotron_h(config: Config) -> ModelSpec:
    """Return the shape; the number of layers is that of the letters, and the layers that predict
    further tokens are not built."""
    letters = _nemotron_letters(config)
    content = {**config.content, "num_hidden_layers": len(letters)}
    return decoder(
        Config(content, config.path),
        "nemotron_h",
        key_value_heads=8,
        head_dim=128,
        intermediate_size=21504,
        mlp="plain",
        mlp_bias=config.flag("mlp_bias"),
        activation=config.activation("mlp_hidden_act", "relu2"),
        norm="rms-fp32-weight",
        logits_in_fp32=True,
        positions="none",
        mamba=_nemotron_mamba(config),
        experts=_nemotron_experts(config) if EXPERTS in letters else None,
        layer_letters=shortest_period(letters),
        blocks="single",
    )


def _nemotron_h_keys(spec: ModelSpec) -> dict[str, Any]:
    mamba, experts = mamba_of(spec), spec.experts
    keys = {
        "layers_block_type": [_block_type(kind) for kind in spec.layers],
        "mlp_hidden_act": ACTIVATION_NAMES[spec.activation],
        "mlp_bias": spec.mlp_bias,
        "mamba_num_heads": mamba.heads,
        "mamba_head_dim": mamba.head_dim,
        "n_groups": mamba.groups,
        "ssm_state_size": mamba.state_size,
        "conv_kernel": mamba.kernel_size,
        "chunk_size": mamba.chunk_size,
        "use_conv_bias": mamba.convolution_bias,
        "use_bias": mamba.input_bias,
    }
    if experts is None:
        return keys
    return keys | {
        "n_routed_experts": experts.num_experts,
        "num_experts_per_tok": experts.experts_per_token,
        "moe_intermediate_size": experts.intermediate_size,
        "norm_topk_prob": experts.normalized,
        "n_group": experts.num_groups,
        "topk_group": experts.chosen_groups,
        "moe_shared_expert_intermediate_size": experts.shared_intermediate_size,
        "moe_latent_size": experts.latent_size or None,
    }


def _mamba2(config: Config) -> ModelSpec:
    """Return the shape of Mamba-2 alone; what is of attention is that of its heads, and is not
    used."""
    config.refuse("hidden_act", Phrase("an activation that is not modelled"), ordinary="silu")
    bias, hidden_size = config.flag("use_bias"), config.integer("hidden_size")
    mamba = Mamba2Spec(
        heads=config.integer("num_heads", 128),
        head_dim=config.integer("head_dim", 64),
        groups=config.integer("n_groups", 8),
        state_size=config.integer("state_size", 128),
        kernel_size=config.integer("conv_kernel", 4),
        chunk_size=config.integer("chunk_size", 256),
        convolution_bias=config.flag("use_conv_bias", default=True),
        input_bias=bias,
        output_bias=bias,
    )
    return ModelSpec(
        model_type="mamba2",
        num_layers=config.integer("num_hidden_layers"),
        hidden_size=hidden_size,
        intermediate_size=mamba.inner_size,
        num_attention_heads=mamba.heads,
        num_key_value_heads=mamba.heads,
        head_dim=mamba.head_dim,
        vocab_size=config.integer("vocab_size"),
        max_position_embeddings=UNLIMITED,
        tied_embeddings=config.flag("tie_word_embeddings"),
        residual_in_fp32=config.flag("residual_in_fp32", default=True),
        logits_in_fp32=True,
        positions="none",
        mamba=mamba,
        layer_letters=RECURRENT,
        blocks="single",
    )


def _mamba2_keys(spec: ModelSpec) -> dict[str, Any]:
    mamba = mamba_of(spec)
    return {
        "num_heads": mamba.heads,
        "head_dim": mamba.head_dim,
        "n_groups": mamba.groups,
        "state_size": mamba.state_size,
        "conv_kernel": mamba.kernel_size,
        "chunk_size": mamba.chunk_size,
        "expand": mamba.inner_size // spec.hidden_size,
        "use_conv_bias": mamba.convolution_bias,
        "use_bias": mamba.input_bias,
        "residual_in_fp32": spec.residual_in_fp32,
    }


def _jamba(config: Config) -> ModelSpec:
    from planner.models.architectures.recurrent.jamba import jamba  # few plans need it

    return jamba(config)


def _jamba_keys(spec: ModelSpec) -> dict[str, Any]:
    from planner.models.architectures.recurrent.jamba import jamba_keys

    return jamba_keys(spec)


def _block_type(kind: LayerKind) -> str:
    if kind.feeds:
        return "moe" if kind.routed else "mlp"
    return LINEAR if kind.recurrent else FULL


ARCHITECTURES: Mapping[str, Architecture] = {
    "bamba": Architecture(native_class="BambaForCausalLM", read=_bamba, written=_bamba_keys),
    "falcon_h1": Architecture(
        native_class="FalconH1ForCausalLM", read=_falcon_h1, written=_falcon_h1_keys
    ),
    "granitemoehybrid": Architecture(
        native_class="GraniteMoeHybridForCausalLM",
        read=_granitemoehybrid,
        written=_granitemoehybrid_keys,
    ),
    "jamba": Architecture(native_class="JambaForCausalLM", read=_jamba, written=_jamba_keys),
    "mamba2": Architecture(
        native_class="Mamba2ForCausalLM",
        read=_mamba2,
        written=_mamba2_keys,
        derived=(
            "intermediate_size",
            "num_attention_heads",
            "num_key_value_heads",
            "head_dim",
            "max_position_embeddings",
        ),
    ),
    "nemotron_h": Architecture(
        native_class="NemotronHForCausalLM",
        read=_nemotron_h,
        written=_nemotron_h_keys,
        derived=("num_hidden_layers",),
    ),
}
