"""Jamba: Mamba mixers with attention in some layers, and experts in others."""

from collections.abc import Iterable
from typing import Any

from planner.base.phrases import Phrase
from planner.base.units import ceil_div
from planner.models.architectures.keys import Config
from planner.models.architectures.llama import decoder
from planner.models.architectures.mixture import no_router_loss
from planner.models.expert_shape import ExpertsSpec
from planner.models.layer_kinds import ATTENDING, RECURRENT, LayerKind, shortest_period
from planner.models.model_spec import ModelSpec
from planner.models.recurrent_shape import MambaSpec


def jamba(config: Config) -> ModelSpec:
    """Return the shape of Jamba."""
    no_router_loss(config)
    config.refuse("hidden_act", Phrase("an activation that is not modelled"), ordinary="silu")
    config.refuse("mamba_proj_bias", Phrase("a bias that is not modelled"))
    config.refuse("use_mambapy", Phrase("another package's scan is not modelled"))
    config.refuse("attention_dropout", Phrase("dropout in the model is not modelled"), ordinary=0.0)
    attending = _layers(config, "attn_layer", 8, 4)
    count = config.integer("num_hidden_layers")
    letters = (ATTENDING if number in attending else RECURRENT for number in range(count))
    return decoder(
        config,
        "jamba",
        key_value_heads=8,
        positions="none",
        mamba_1=_mamba_of(config),
        layer_letters=shortest_period("".join(letters)),
        experts=_experts_of(config, _layers(config, "expert_layer", 2, 1)),
    )


def _layers(config: Config, name: str, period: int, offset: int) -> range:
    """Return the layers that ``NAME_period`` and ``NAME_offset`` choose, counted from 0."""
    period = config.integer(f"{name}_period", period)
    offset = config.integer(f"{name}_offset", offset, least=0)
    if offset >= period:
        raise config.error(
            Phrase(
                "{name}_offset ({offset}) must be below {name}_period ({period})",
                name=name,
                offset=offset,
                period=period,
            )
        )
    return range(offset, config.integer("num_hidden_layers"), period)


def _mamba_of(config: Config) -> MambaSpec:
    hidden_size = config.integer("hidden_size")
    has_rank = config.value("mamba_dt_rank", "auto") != "auto"
    return MambaSpec(
        inner_size=config.integer("mamba_expand", 2) * hidden_size,
        state_size=config.integer("mamba_d_state", 16),
        kernel_size=config.integer("mamba_d_conv", 4),
        step_rank=config.integer("mamba_dt_rank") if has_rank else ceil_div(hidden_size, 16),
        convolution_bias=config.flag("mamba_conv_bias", default=True),
    )


def _experts_of(config: Config, routed: range) -> ExpertsSpec | None:
    """Return the experts; a single one is an ordinary MLP."""
    count = config.either("num_experts", "num_local_experts", 16)
    if count == 1 or not routed:
        return None
    layers = range(config.integer("num_hidden_layers"))
    closes = routed.start == routed.step - 1
    return ExpertsSpec(
        num_experts=count,
        experts_per_token=config.integer("num_experts_per_tok", 2),
        intermediate_size=config.integer("intermediate_size", 14336),
        router="softmax-like-input",
        every=routed.step if closes else 1,
        dense_layers=() if closes else tuple(each for each in layers if each not in routed),
    )


def jamba_keys(spec: ModelSpec) -> dict[str, Any]:
    """Return Jamba's keys."""
    mamba, experts = spec.mamba_1, spec.experts
    assert mamba is not None
    return {
        **_written("attn_layer", spec.layers, (kind.attends for kind in spec.layers)),
        **_written("expert_layer", spec.layers, (kind.routed for kind in spec.layers)),
        "num_experts": 1 if experts is None else experts.num_experts,
        "num_experts_per_tok": 1 if experts is None else experts.experts_per_token,
        "mamba_d_state": mamba.state_size,
        "mamba_d_conv": mamba.kernel_size,
        "mamba_expand": mamba.inner_size // spec.hidden_size,
        "mamba_dt_rank": mamba.step_rank,
        "mamba_conv_bias": mamba.convolution_bias,
    }


def _written(name: str, layers: tuple[LayerKind, ...], chosen: Iterable[bool]) -> dict[str, int]:
    """Return the period and the offset that choose those layers; beyond the last for none."""
    count = len(layers)
    places = [number for number, is_chosen in enumerate(chosen) if is_chosen] or [count]
    first, second = (*places, places[0] + max(count, places[0] + 1))[:2]
    return {f"{name}_period": second - first, f"{name}_offset": first}
