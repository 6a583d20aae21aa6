"""One micro-batch of a model of many layers, from a trace of a few of them.

Layers of one kind take the same bytes, each at its place: so the stretches of a few are laid end to
end for all. That is proved for every plan before it is used, the number of samples aside: one more
layer of each kind, far from the first, is traced too, and must take what the law says, in forward
and in backward. Where it does not, the first and the last layer of each kind are traced as well and
only those between are laid out; where that does not hold either, the whole model is traced.

Layers that are left out pass their input on. They keep their place in the stack, and the model its
configuration, so that what stands before, between and after the layers is as in the whole model.
Where a model goes through its layers several times, those of each time are layers of their own.
"""

import re
import weakref
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from functools import cache
from time import process_time
from typing import Any, Literal, NamedTuple

import torch
from msgspec import json, to_builtins

from launcher.compat.torch import own_tensors
from launcher.rehearsal.engine import pass_engine
from launcher.rehearsal.layer_stretches import (
    Amounts,
    Border,
    NotPeriodicError,
    Stretch,
    StretchTracer,
)
from launcher.rehearsal.phases import Phases
from launcher.rehearsal.rehearse import left_out_of, rules_of, trace_step
from launcher.rehearsal.tracer import TooLongError, Tracer
from launcher.training.text_model import backbone, decoder_layers
from planner.base.errors import UserError
from planner.plan.schema import Plan
from planner.plan.vocabulary import Method

Range = Literal["alike", "between"]
"""Which layers of a kind take the same bytes: all but the first and the last of the model, or those
between the first and the last of the kind."""
RANGES: tuple[Range, ...] = ("alike", "between")


class Law(NamedTuple):
    """What all layers take, by what a few take."""

    range: Range
    by_maker: tuple[str, ...] = ("forward", "backward")
    """Phases in which what one layer makes and the next one frees, such as its output and the
    tokens that its indexer has chosen, goes by the layer that makes it; in others it goes by the
    layer that frees it."""


MOST_TRACING_S = 40
"""Seconds of processor time after which a micro-batch is not traced any further."""
_PLACE = re.compile(r"idx|index|layer_id|layer_num")
"""Names of settings that only say where in the stack a layer stands."""


def pass_phases(plan: Plan) -> Phases:
    """Return the bytes that one micro-batch adds, by part, at the largest moments of forward and of
    backward; raise ``UserError`` if it takes more than ``MOST_TRACING_S``."""
    known, key = proved_laws(), _of_any_batch(plan)
    until_s = process_time() + MOST_TRACING_S
    if key not in known:
        known[key], phases = _proved(plan, until_s)
        return phases
    law = known[key]
    if law is None:
        return _whole(plan, until_s)
    return _excerpt(plan, law.range, until_s, proving=False).phases(law)


def can_be_traced(plan: Plan) -> bool:
    """Return whether a micro-batch of a plan can be traced, however long it takes."""
    try:
        pass_phases(plan)
    except TooLongError:
        return True
    except Exception:  # of a model that nobody has tried
        return False
    return True


@cache
def proved_laws() -> dict[bytes, Law | None]:
    """Return the law of each plan that was traced, by the plan; None where none holds."""
    return {}


def _of_any_batch(plan: Plan) -> bytes:
    """Return all of a plan but the number of samples."""
    batch = plan.batch
    kept = (batch.sequence_length, batch.packing, batch.gradient_accumulation_steps > 1)
    return json.encode([to_builtins(plan) | {"batch": kept}])


def _proved(plan: Plan, until_s: float) -> tuple[Law | None, Phases]:
    """Return the law that holds for a plan, and its phases; what held for the model in another
    layout is tried first, and nothing where nothing did; then what held if it trained otherwise."""
    last, model = last_laws(), _of_any_layout(plan)
    expected: list[Range | None] = [last[model]] if model in last else []
    expected += [held for (config, *_), held in last.items() if held and config == model[0]]
    for found in dict.fromkeys((*expected, *RANGES)):
        if found is None:
            break
        try:
            excerpt = _excerpt(plan, found, until_s, proving=True)
            law = excerpt.law
            phases = excerpt.phases(law)
        except UserError:
            raise
        except Exception:  # whatever fails without all layers is traced with them
            continue
        last[model] = found
        return law, phases
    last[model] = None
    return None, _whole(plan, until_s)


@cache
def last_laws() -> dict[tuple[bytes, Method, bool], Range | None]:
    """Return which layers were alike when a model trained in one way was traced last; None where
    none were."""
    return {}


def _of_any_layout(plan: Plan) -> tuple[bytes, Method, bool]:
    """Return a plan's model, its method, and whether it recomputes."""
    return json.encode(plan.model.config), plan.method, plan.activation_checkpointing


def _whole(plan: Plan, until_s: float) -> Phases:
    tracer = Tracer(rules_of(plan), left_out=left_out_of(plan), until_s=until_s)
    trace_step(plan, tracer, make_engine=pass_engine)
    return {phase: tracer.phases[phase] for phase in ("forward", "backward")}


def _excerpt(plan: Plan, range_: Range, until_s: float, *, proving: bool) -> "Excerpt":
    tracer = StretchTracer(
        rules_of(plan),
        tokens=plan.batch.sequence_length,
        left_out=left_out_of(plan),
        until_s=until_s,
    )
    excerpt = Excerpt(tracer, plan, range_, proving=proving)
    trace_step(plan, tracer, make_engine=pass_engine, prepare=excerpt.take)
    return excerpt


class Members(NamedTuple):
    """The layers that are traced, and what they stand for."""

    stands_for: tuple[int, ...]
    """By layer of the model, the traced layer whose bytes it takes."""
    proofs: tuple[tuple[int, int], ...]
    """Pairs of traced layers that must take the same bytes."""

    @property
    def traced(self) -> frozenset[int]:
        """The layers that are not left out."""
        return frozenset(self.stands_for).union(*self.proofs)

    @property
    def in_order(self) -> list[int]:
        """The traced layers, the first one first."""
        return sorted(self.traced)

    def repeated(self, times: int) -> "Members":
        """Return the same of a stack that is gone through so many times.

        >>> Members((0, 1, 1, 3), ((1, 2),)).repeated(2)
        Members(stands_for=(0, 1, 1, 3, 4, 5, 5, 7), proofs=((1, 2), (5, 6)))
        """
        count = len(self.stands_for)
        begins = range(0, times * count, count)
        return Members(
            tuple(begin + place for begin in begins for place in self.stands_for),
            tuple((begin + one, begin + other) for begin in begins for one, other in self.proofs),
        )


def members(kinds: Sequence[Hashable], range_: Range, *, proving: bool) -> Members:
    """Return the layers to trace of a stack whose layers have these kinds.

    >>> members("aaabaaab", "alike", proving=True)
    Members(stands_for=(0, 1, 1, 3, 1, 1, 1, 7), proofs=((1, 6),))
    >>> members("aaaaa", "between", proving=True)
    Members(stands_for=(0, 1, 1, 1, 4), proofs=((1, 3),))
    """
    places = defaultdict[Hashable, list[int]](list)
    for place, kind in enumerate(kinds):
        places[kind].append(place)
    stands_for = list(range(len(kinds)))
    proofs = list[tuple[int, int]]()
    for of_kind in places.values():
        inside = [place for place in of_kind if 0 < place < len(kinds) - 1]
        same = of_kind[1:-1] if range_ == "between" else inside
        for place in same:
            stands_for[place] = same[0]
        if proving and len(same) > 1:
            proofs.append((same[0], same[-1]))
    return Members(tuple(stands_for), tuple(proofs))


class Excerpt:
    """A few layers of a model that is about to be traced, and what they say of all."""

    def __init__(self, tracer: StretchTracer, plan: Plan, range_: Range, *, proving: bool) -> None:
        self._tracer, self._range, self._proving = tracer, range_, proving
        self._every = plan.checkpoint_every if plan.activation_checkpointing else 1
        self._layers = Members((), ())
        """The layers of the stack, once."""
        self._times = 0
        """How often the stack has been entered."""
        self._beside: tuple[Callable[[], Any], ...] | None = None
        self._has_gradient: set[int] = set()

    def take(self, model: Any) -> None:
        """Leave out layers of a model without storages, and watch the others."""
        layers = list(decoder_layers(model))
        kinds = _kinds(model, layers, self._every)
        self._layers = members(kinds, self._range, proving=self._proving)
        for place, layer in enumerate(layers):
            layer.register_forward_pre_hook(lambda *_, place=place: self._enter(place))
            if place in self._layers.traced:
                layer.register_forward_hook(
                    lambda *run, place=place: self._watch_gradient(place, run[-1])
                )
            else:
                self._leave_out(layer)
        layers[-1].register_forward_hook(lambda *_: self._tracer.cut(-self._times))
        backbone(model).register_forward_hook(lambda *_: self._tracer.cut("end"))

    def _enter(self, place: int) -> None:
        self._times += place == 0
        self._tracer.cut(self._this_time(place))

    def _this_time(self, place: int) -> int:
        """Return the place of a layer among those of all times."""
        return (self._times - 1) * len(self._layers.stands_for) + place

    def _watch_gradient(self, place: int, output: Any) -> None:
        place = self._this_time(place)
        is_tuple = isinstance(output, tuple | list)
        self._beside = tuple(map(_held_elsewhere, output[1:])) if is_tuple else None
        hidden = output[0] if is_tuple else output
        if hidden.requires_grad:
            self._has_gradient.add(place)
            hidden.register_hook(lambda _: self._tracer.cut(place))

    def _leave_out(self, layer: Any) -> None:
        """Empty a layer, so that it returns its input, as the layers before it return theirs; and
        beside it what they did, if it lives: a model may hold one layer's scores during the
        next."""

        def pass_on(*inputs: Any, **named: Any) -> Any:
            hidden = inputs[0] if inputs else named["hidden_states"]
            if self._beside is None:
                return hidden
            return (hidden, *(output() for output in self._beside))

        layer.forward = pass_on
        for tensors in own_tensors(layer):
            tensors.clear()
        for name, _ in [*layer.named_children()]:
            delattr(layer, name)

    @property
    def law(self) -> Law:
        """The law that the traced layers keep; raise ``NotPeriodicError`` if they keep none."""
        by_maker = list[str]()
        for phase in ("forward", "backward"):
            if self._stack(phase, by_maker=True).is_proved:
                by_maker.append(phase)
            elif not self._stack(phase, by_maker=False).is_proved:
                raise NotPeriodicError(f"layers of one kind differ in {phase}")
        return Law(self._range, tuple(by_maker))

    def phases(self, law: Law) -> Phases:
        """Return the bytes of the whole model by a law."""
        forward, backward = (
            self._stack(phase, by_maker=phase in law.by_maker) for phase in ("forward", "backward")
        )
        whole = [forward.stretches["before"]]
        layers, count = forward.layers(), len(self._layers.stands_for)
        for time in range(self._times):
            whole += layers[time * count : (time + 1) * count]
            whole.append(forward.stretches[-1 - time])
        end = forward.stretches["end"]
        in_forward, level = _largest([*whole, end], Counter())
        stands_for = forward.members.stands_for
        for place in forward.members.traced:
            missing = stands_for.count(place) - 1
            level.subtract(_times(end.freed.get(place, Counter()), missing))
        from_head = [backward.stretches["head"], *reversed(backward.layers())]
        in_backward, _ = _largest(from_head, level)
        return {"forward": _present(in_forward), "backward": _present(in_backward)}

    def _stack(self, phase: str, *, by_maker: bool) -> "Stack":
        """Return the stretches of a phase; raise ``NotPeriodicError`` if they are not those of
        layers that are passed one by one."""
        stretches = self._tracer.stretches[phase]
        expected = self._expected(phase)
        if [border for border in stretches if border in expected] != expected:
            raise NotPeriodicError(f"layers are not passed one by one in {phase}")
        of_all_times = self._layers.repeated(self._times)
        for border in stretches.keys() - set(expected):
            if stretches[border].top or stretches[border].net:
                raise NotPeriodicError(f"something is allocated at layer {border}, left out")
        nothing = Stretch(Counter(), Counter(), {})
        found = dict.fromkeys(of_all_times.traced, nothing) | stretches
        return Stack(of_all_times, found, by_maker)

    def _expected(self, phase: str) -> list[Border]:
        """Return where the stretches of a phase begin, those of layers left out aside."""
        if phase == "forward":
            count, found = len(self._layers.stands_for), list[Border](["before"])
            for time in range(self._times):
                found += [time * count + place for place in self._layers.in_order]
                found.append(-1 - time)
            return [*found, "end"]
        return ["head", *sorted(self._has_gradient, reverse=True)]


class Stack(NamedTuple):
    """The stretches of the traced layers in one phase, to be laid out for all."""

    members: Members
    stretches: Mapping[Border, Stretch]
    by_maker: bool
    """Whether what is handed on goes by the layer that makes it, as a law says."""

    @property
    def is_proved(self) -> bool:
        """Whether the layers of each kind take the same bytes."""
        return all(self._taken(one) == self._taken(other) for one, other in self.members.proofs)

    def layers(self) -> list[Stretch]:
        """Return the stretches of all layers, the first one first."""
        found = list[Stretch]()
        handed_on = Amounts()
        for place, traced in enumerate(self.members.stands_for):
            own = self._own(traced, is_itself=traced == place)
            own.net.subtract(handed_on)
            found.append(own)
            handed_on = self._handed_on(traced)
        return found

    def _taken(self, place: int) -> tuple[Amounts, Amounts, Amounts]:
        own = self._own(place, is_itself=False)
        return own.top, own.net, self._handed_on(place)

    def _own(self, place: int, *, is_itself: bool) -> Stretch:
        """Return what a layer adds, had it freed nothing that the one before it hands on; nor,
        where it stands for another, what was there before all layers, as a mask that they share."""
        order = self.members.in_order
        earlier = order[: order.index(place)][-1:] if self.by_maker else ()
        return self.stretches[place].without(*earlier, *(() if is_itself else ("before",)))

    def _handed_on(self, place: int) -> Amounts:
        order = self.members.in_order
        following = order[order.index(place) + 1 :][:1] if self.by_maker else ()
        return Counter(*(self.stretches[one].freed.get(place, {}) for one in following))


def _held_elsewhere(output: Any) -> Callable[[], Any]:
    """Return what returns a tensor, or each of several, as long as something else holds it; None
    afterwards, and for what is not a tensor."""
    if isinstance(output, tuple | list):
        parts = [_held_elsewhere(part) for part in output]
        return lambda: tuple(part() for part in parts)
    return weakref.ref(output) if isinstance(output, torch.Tensor) else lambda: None


def _kinds(model: Any, layers: Sequence[Any], every: int) -> list[Hashable]:
    """Return what tells one layer from another: its modules, their settings, and what lists of the
    configuration say of its place; of recomputed layers, which of them are."""
    known = model.config.get_text_config().to_dict()
    lists = [value for value in known.values() if isinstance(value, list | tuple)]
    by_layer = [value for value in lists if len(value) == len(layers)]
    return [
        (
            tuple(_contents(layer)),
            tuple(repr(value[place]) for value in by_layer),
            place % every,
        )
        for place, layer in enumerate(layers)
    ]


def _contents(layer: Any) -> Iterator[Hashable]:
    for path, module in layer.named_modules():
        shapes = tuple((name, *one.shape) for name, one in module.named_parameters(recurse=False))
        settings = tuple(
            (name, bool(value) if isinstance(value, float) else value)
            for name, value in vars(module).items()
            if isinstance(value, bool | int | float | str) and not _PLACE.search(name)
        )
        yield path, type(module), shapes, settings


def _largest(stretches: Sequence[Stretch], before: Amounts) -> tuple[Amounts, Amounts]:
    """Return the bytes at the last largest moment of stretches laid end to end, and at their
    end."""
    level, best = before.copy(), before.copy()
    for each in stretches:
        top = level.copy()
        top.update(each.top)
        if top.total() >= best.total():
            best = top
        level.update(each.net)
    return best, level


def _times(amounts: Amounts, count: int) -> Amounts:
    return Counter({part: count * size for part, size in amounts.items()})


def _present(amounts: Amounts) -> dict[str, int]:
    return {part: size for part, size in amounts.items() if size}
