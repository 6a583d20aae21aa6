"""A recipe's workload with another loss or attention, where nobody stated which: they change what
a step takes, and nothing of what is learned."""

from dataclasses import dataclass
from typing import get_args

from planner.hardware.cluster import Device
from planner.models.traced_model import TracedSpec
from planner.plan.vocabulary import AttentionName, Loss
from planner.workload.workload import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Of one candidate."""

    loss: Loss
    attention: AttentionName


def choices(
    own: Workload, device: Device, *, loss_open: bool, attention_open: bool
) -> tuple[Choice, ...]:
    """All that the model admits, the recipe's own first; of these presets/rules.yaml speaks."""
    losses = (own.loss, *get_args(Loss)) if loss_open else (own.loss,)
    attentions: tuple[AttentionName, ...] = (own.attention,)
    if attention_open:
        attentions += admitted_attention(own, device)
    return tuple(
        Choice(loss=loss, attention=attention)
        for attention in dict.fromkeys(attentions)
        for loss in dict.fromkeys(losses)
    )


def admitted_attention(work: Workload, device: Device) -> tuple[AttentionName, ...]:
    """What transformers has for the model. On the CPU latent attention is eager alone: no fused
    kernel there takes values of another width."""
    if isinstance(work.model, TracedSpec):
        return (work.model.attention,)
    if work.only_attention is not None:
        return (work.only_attention,)
    if device == "cpu" and work.model.latent is not None:
        return ("eager",)
    return get_args(AttentionName)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Variant:
    """A workload, and in what it departs from the recipe's own."""

    workload: Workload
    departures: tuple[str, ...] = ()


def variant_of(own: Workload, choice: Choice) -> Variant:
    """One for each choice, so that what is remembered of its workload is found."""
    work, departures = own, list[str]()
    if choice.attention != own.attention:
        departures.append(f"{choice.attention} attention")
        work = work.with_settings(attention=choice.attention)
    if choice.loss != own.loss:
        departures.append(f"{choice.loss} loss")
        work = work.with_settings(loss=choice.loss)
    return Variant(workload=work, departures=tuple(departures))
