"""Why a request leaves no layout: the rule that its own options meet, and no other.

A rule forbids a request only if it forbids every layout that the options leave. One that forbids
some of them, or an attention that was not requested, does not explain why none is left.
"""

from collections.abc import Iterable, Iterator

from planner.base.phrases import Joined, Phrase
from planner.decision.request import Request
from planner.decision.requested_workload import allowed_series, workload
from planner.plan.vocabulary import Method
from planner.workload.rules import Combination, Pinned, Rule, When, broken_rules

NO_LAYOUT = Phrase("no layout satisfies all the options you set")


def pinned_of(request: Request) -> frozenset[Pinned]:
    """Return what advice yields to, since an option asks for it."""
    stated = (request.strategy, request.zero_stage, request.offload) != (None, None, None)
    return frozenset({"strategy"} if stated else ())


def refusal(request: Request) -> str:
    """Return in one sentence why no method has a layout, and what to change."""
    by_method = {method: _rules_against(request, method) for method in request.methods}
    rule = next(_common(by_method.values()), None)
    if rule is not None:
        return _sentence(rule, request)
    reasons = {method: why_no_layout(request, method) for method in by_method}
    if set(reasons.values()) == {NO_LAYOUT}:
        return Phrase(
            "{problem}: {options}. Leave one of them out",
            problem=NO_LAYOUT,
            options=", ".join(_layout_options(request)),
        )
    each_why = Joined("; ", (Joined(": ", [name, why]) for name, why in reasons.items()))
    return Phrase("no method is left: {why}", why=each_why)


def why_no_layout(request: Request, method: Method) -> str:
    """Return the reason that the method has no layout."""
    return next((Phrase(rule.reason) for rule in _rules_against(request, method)), NO_LAYOUT)


def _rules_against(request: Request, method: Method) -> tuple[Rule, ...]:
    """Return the rules that every layout of a method breaks, with the attention it would have."""
    work = workload(request, method)
    pinned: frozenset[Pinned] = pinned_of(request) | {"attention"}
    layouts = {(each.strategy, each.offload) for each in allowed_series(request, work)}
    shared = request.sequence_ranks > 1
    combinations = (
        Combination.of(work, *layout, request.cluster, shares_sequences=shared)
        for layout in layouts
    )
    broken = [tuple(broken_rules(each, pinned=pinned)) for each in combinations]
    return tuple(_common(broken))


def _common(broken: Iterable[tuple[Rule, ...]]) -> Iterator[Rule]:
    """Yield the rules that are in every list, in the order of the first."""
    first, *others = list(broken) or [()]
    return (rule for rule in first if all(rule in other for other in others))


def _sentence(rule: Rule, request: Request) -> str:
    options = list(dict.fromkeys(_options(rule.when, request)))
    first, *others = [*options, *_circumstances(rule.when, request)]
    combined = first
    if others:
        with_others = Joined(" and ", others)
        combined = Phrase(
            "{first} cannot be combined with {others}", first=first, others=with_others
        )
    return Phrase(
        "{problem}: {reason}. {remedy}",
        problem=combined,
        reason=Phrase(rule.reason),
        remedy=_remedy(options),
    )


def _options(when: When, request: Request) -> Iterator[str]:
    """Yield the options that a rule is about, as they were given."""
    recipe = None if request.recipe is None else f"--recipe {request.recipe.name}"
    offload = f"--offload {request.offload}" if request.offload not in (None, "none") else None
    optimizer = _option("--optimizer", request.optimizer) or recipe
    given: tuple[tuple[object, str | None], ...] = (
        (
            when.shares_sequences,
            _option("--sequence-parallel-size", request.sequence_parallel_size),
        ),
        (when.tiled_mlp, "--tiled-mlp" if request.tiled_mlp else None),
        (when.strategy, _strategy_option(request) or offload),
        (when.offload, offload),
        (when.optimizer or when.optimizer_library or when.optimizer_other_than, optimizer),
        (when.attention, _option("--attention", request.attention) or recipe),
        (when.packing, "--packing" if request.packing else recipe),
        (when.compute or when.pure, _option("--precision", request.precision)),
        (when.quant_type, recipe),
        (when.method, _option("--method", request.method) or recipe),
    )
    for is_about, option in given:
        if is_about and option is not None:
            yield option


def _strategy_option(request: Request) -> str | None:
    stage = _option("--zero-stage", request.zero_stage)
    return _option("--strategy", request.strategy) or stage


def _option(name: str, value: object) -> str | None:
    return None if value is None else f"{name} {value}"


def _circumstances(when: When, request: Request) -> Iterator[str]:
    """Yield what a rule is about that no option of its own names: the model, the device."""
    if when.model_type is not None:
        yield request.model.name
    of_a_card = (when.device, when.capability_below, when.capability_from) != (None, None, None)
    if of_a_card and request.cluster.device == "cpu":
        yield Phrase("the CPU")
    elif of_a_card:
        yield request.cluster.accelerator.device_name


def _remedy(options: list[str]) -> str:
    if len(options) > 1:
        both = len(options) == 2
        return Phrase("Leave one of the two out") if both else Phrase("Leave one of them out")
    (option,) = options or ("--model",)
    name = option.split()[0]
    if name in ("--method", "--recipe", "--model"):
        return Phrase("Take another {name}", name=name)
    return Phrase("Leave it out")


def _layout_options(request: Request) -> Iterator[str]:
    """Yield the options that say which layouts are allowed."""
    yield from filter(
        None,
        (
            _option("--strategy", request.strategy),
            _option("--zero-stage", request.zero_stage),
            _option("--sequence-parallel-size", request.sequence_parallel_size),
            _option("--offload", request.offload),
            _option("--global-batch-size", request.global_batch_size),
            _option("--micro-batch-size", request.micro_batch_size),
            _option("--checkpoint-every", request.checkpoint_every),
        ),
    )
