"""A recipe's workload with another loss or attention implementation, where neither is pinned.

Both change what a step costs, not what is learned.
"""

from typing import Literal, get_args

from msgspec import Struct

from planner.base.phrases import Phrase
from planner.hardware.cluster import Device
from planner.models.traced_model import TracedSpec
from planner.plan.vocabulary import AttentionName, Loss
from planner.workload.workload import Workload


class Choice(Struct, frozen=True, kw_only=True):
    """The loss and the attention of one variant."""

    loss: Loss
    attention: AttentionName


def choices(
    recipe_workload: Workload, device: Device, *, loss_open: bool, attention_open: bool
) -> tuple[Choice, ...]:
    """Return every choice that the model admits, the recipe's own first; presets/rules.yaml may
    forbid some."""
    losses = (recipe_workload.loss, *get_args(Loss)) if loss_open else (recipe_workload.loss,)
    attentions: tuple[AttentionName, ...] = (recipe_workload.attention,)
    if attention_open:
        attentions += admitted_attention(recipe_workload, device)
    return tuple(
        Choice(loss=loss, attention=attention)
        for attention in dict.fromkeys(attentions)
        for loss in dict.fromkeys(losses)
    )


def admitted_attention(workload: Workload, device: Device) -> tuple[AttentionName, ...]:
    """Return the attention implementations that transformers has for the model on the device.

    On the CPU latent attention is eager alone: no fused kernel there takes values of another width
    than keys.
    """
    if isinstance(workload.model, TracedSpec):
        return (workload.model.attention,)
    if workload.only_attention is not None:
        return (workload.only_attention,)
    if device == "cpu" and workload.model.latent is not None:
        return ("eager",)
    return get_args(AttentionName)


class Variant(Struct, frozen=True, kw_only=True, eq=False):
    """A workload, and how it departs from the recipe's."""

    workload: Workload
    departures: tuple[str, ...] = ()
    """What differs from the recipe's workload, such as ``standard loss``."""


Kind = Literal["loss", "attention"]


def departure_to(kind: Kind, name: str) -> Phrase:
    """Return the words for a loss or an attention by name."""
    if kind == "loss":
        return {"fused": Phrase("fused loss"), "standard": Phrase("standard loss")}[name]
    return Phrase("{name} attention", name=name)


def variant_of(recipe_workload: Workload, choice: Choice) -> Variant:
    """Return the recipe's workload with the choice put in."""
    workload, departures = recipe_workload, list[str]()
    if choice.attention != recipe_workload.attention:
        departures.append(departure_to("attention", choice.attention))
        workload = workload.with_settings(attention=choice.attention)
    if choice.loss != recipe_workload.loss:
        departures.append(departure_to("loss", choice.loss))
        workload = workload.with_settings(loss=choice.loss)
    return Variant(workload=workload, departures=tuple(departures))
