"""The explorer: a map of what fits around the plan, with figures and a command for each state."""

from collections.abc import Callable, Mapping
from typing import Any

from planner.base.phrases import Joined, Phrase
from planner.base.printable import shown_on_one_line
from planner.base.units import format_duration, format_rate, short_gib
from planner.decision.state_grid import Axes, Machine, State, StateGrid
from planner.page.elements import Markup, element
from planner.page.parts import command, section
from planner.plan.vocabulary import METHOD_NAMES, Method
from planner.report.words import strategy_title
from planner.workload.layout import nth

Written = Callable[[Mapping[str, Any]], str]
"""Returns the command line with these options instead of what was typed for them."""

FITS, TIGHT, TOO_LARGE, IMPLIED, REFUSED = range(5)
"""How a state is marked in the data of the script."""
ADAPTER_OPTIONS = ("lora_rank", "lora_dropout", "lora_targets", "lora_init")
"""Options that are refused where no adapter trains."""
WORDS = {
    "fits": Phrase("fits, {spare} GiB free in the worst case"),
    "tight": Phrase("fits, but is tight: {spare} GiB free in the worst case"),
    "no": Phrase("does not fit: {spare} GiB short in the worst case"),
    "host": Phrase("does not fit: the host has too little memory for what is offloaded"),
    "implied": Phrase("does not fit, since fewer or shorter samples do not"),
    "refused": Phrase("cannot be planned"),
    "memory": Phrase("{worst} GiB in the worst case, of {budget}"),
    "memory_unknown": Phrase("more than {budget} GiB"),
    "speed": Phrase("{rate} tokens/s, {step} per step"),
    "speed_unknown": Phrase("unknown: no published rates for this device"),
    "batch": Phrase("micro-batch {micro} x accumulation {accumulation} = global batch {total}"),
    "batch_of_several": Phrase(
        "micro-batch {micro} x accumulation {accumulation} x {devices} devices = global batch "
        "{total}"
    ),
    "state": Phrase(
        "{method} on {cards}, {length} tokens per sample, micro-batch {micro}, {recompute}"
    ),
    "here": Phrase("the plan"),
    "corner": Phrase("tokens → batch ↓"),
    "map_memory": Phrase("GiB per card in the worst case: {method} on {cards}, {recompute}"),
    "map_speed": Phrase("Tokens per second: {method} on {cards}, {recompute}"),
    "cell_fits": Phrase("fits"),
    "cell_tight": Phrase("fits, tight"),
    "cell_no": Phrase("does not fit"),
    "cell_refused": Phrase("cannot be planned"),
}
"""Texts of the script."""


def explorer_section(grid: StateGrid) -> Markup:
    """Return the section, whose map and state the script fills."""
    return section(
        "explorer",
        Phrase("Explore other states"),
        element("p", _introduction(grid.axes)),
        element(
            "noscript",
            element("p", Phrase("The explorer needs JavaScript; the rest of the page does not.")),
        ),
        element(
            "div",
            element("div", _controls(grid), _map(), _legend(), class_="map"),
            _state(),
            id="explorer-states",
            class_="beside",
            hidden="",
        ),
    )


def _introduction(axes: Axes) -> str:
    several = len(axes.machines) > 1
    cards = Phrase(" Other numbers of cards are free ones of the same name.") if several else ""
    return Phrase(
        "Each state was priced when this page was written, as the command beside it would price "
        "it. Strategy, loss and what else is open are the best that fit.{cards} Where nothing "
        "fits, the command also tries to keep states in host memory.",
        cards=cards,
    )


def _controls(grid: StateGrid) -> Markup:
    axes = grid.axes
    return element(
        "form",
        _choice("method", Phrase("Method"), [METHOD_NAMES[method] for method in axes.methods]),
        _choice("cards", Phrase("Cards"), [f"{machine.count}" for machine in axes.machines]),
        _choice(
            "recompute",
            Phrase("Activations"),
            [_recomputation(each) for each in axes.checkpointing],
        ),
        _choice("shown", Phrase("Show"), [Phrase("memory"), Phrase("speed")]),
        class_="controls",
    )


def _choice(name: str, title: str, options: list[str]) -> Markup:
    """Return buttons of which one is chosen."""
    labels = (
        element(
            "label",
            element(
                "input",
                type="radio",
                name=name,
                value=number,
                autocomplete="off",
                checked="" if number == 0 else None,
            ),
            element("span", option),
        )
        for number, option in enumerate(options)
    )
    return element("fieldset", element("legend", title), element("div", *labels))


def _recomputation(every: int) -> str:
    """Return what becomes of activations: kept, or recomputed in which layers."""
    if every == 0:
        return Phrase("kept")
    if every == 1:
        return Phrase("recomputed")
    return Phrase("every {nth} layer recomputed", nth=nth(every))


def _activations(every: int) -> str:
    """Return the same as a sentence says it."""
    return Phrase("activations {recomputation}", recomputation=_recomputation(every))


def _map() -> Markup:
    return element(
        "div",
        element("table", element("caption", ""), id="map", role="grid"),
        class_="scrolls",
    )


def _legend() -> Markup:
    marks = (
        ("fits", "✓", Phrase("fits")),
        ("tight", "!", Phrase("fits, under 5 % free")),
        ("no", "\N{MULTIPLICATION SIGN}", Phrase("does not fit")),
    )
    return element(
        "p",
        *(
            element("span", element("b", sign, class_=f"sign {kind}"), " ", text)
            for kind, sign, text in marks
        ),
        " ",
        Phrase("Arrow keys move in the map."),
        class_="legend",
    )


def _state() -> Markup:
    """Return the figures of the chosen state, without values."""
    rows = (
        (Phrase("Memory"), "memory"),
        (Phrase("Speed"), "speed"),
        (Phrase("Strategy"), "strategy"),
        (Phrase("Batch"), "batch"),
    )
    return element(
        "div",
        element(
            "div",
            element("h3", "", id="state-title"),
            element("p", "", id="state-verdict"),
            aria_live="polite",
            aria_atomic="true",
        ),
        element(
            "dl",
            *(
                element("div", element("dt", title), element("dd", "", id=f"state-{name}"))
                for title, name in rows
            ),
            class_="facts",
        ),
        element("p", command(""), id="state-command"),
        class_="state",
        role="region",
        aria_labelledby="state-title",
    )


def explorer_data(grid: StateGrid, written: Written) -> dict[str, Any]:
    """Return what the script shows, with every number as text."""
    axes = grid.axes
    strategies: list[str] = []
    refusals: list[str] = []
    return {
        "methods": [METHOD_NAMES[method] for method in axes.methods],
        "cards": [_cards(machine) for machine in axes.machines],
        "devices": [machine.cluster.world_size for machine in axes.machines],
        "lengths": [f"{length:,}" for length in axes.lengths],
        "micro": list(axes.micro_batch_sizes),
        "recompute": [_activations(every) for every in axes.checkpointing],
        "chosen": grid.chosen,
        "states": [_record(state, strategies, refusals) for state in grid.states],
        "strategies": strategies,
        "refusals": refusals,
        "commands": [
            [
                shown_on_one_line(written(_options(method, machine.gpus)))
                for machine in axes.machines
            ]
            for method in axes.methods
        ],
        "length_options": [f"--sequence-length {length}" for length in axes.lengths],
        "micro_options": [f"--micro-batch-size {size}" for size in axes.micro_batch_sizes],
        "recompute_options": [_recompute_option(every) for every in axes.checkpointing],
        "words": WORDS,
    }


def _cards(machine: Machine) -> str:
    """Return the machine in the words of a sentence."""
    if machine.cluster.device == "cpu":
        return Phrase("the CPU")
    count, nodes = machine.count, machine.cluster.num_nodes
    cards = Phrase("{count} {count[card|cards]}", count=count)
    if nodes == 1:
        return cards
    return Phrase("{cards} of {nodes} nodes each", cards=cards, nodes=nodes)


def _options(method: Method, gpus: str) -> dict[str, Any]:
    """Return the options of one method on one machine; those of adapters are refused without
    any."""
    return {
        "gpus": gpus,
        "method": method,
        **(dict.fromkeys(ADAPTER_OPTIONS) if method == "full" else {}),
    }


def _recompute_option(every: int) -> str:
    if every == 0:
        return "--no-activation-checkpointing"
    return "--activation-checkpointing" if every == 1 else f"--checkpoint-every {every}"


def _record(state: State, strategies: list[str], refusals: list[str]) -> list[Any]:
    """Return mark, share of the budget in per cent, GiB in the worst case, speed, strategy and
    accumulation."""
    if state.candidate is None:
        if state.refusal is None:
            return [IMPLIED, short_gib(state.budget_bytes)]
        return [REFUSED, _number(refusals, state.refusal)]
    candidate, memory, budget = state.candidate, state.candidate.memory, state.budget_bytes
    mark = (TIGHT if state.tight else FITS) if state.fits else TOO_LARGE
    spare = budget - memory.high_bytes
    rate, step = candidate.tokens_per_second, candidate.step_time_s
    how = Joined(", ", [strategy_title(candidate.layout), *candidate.departures])
    return [
        mark,
        round(100 * memory.high_bytes / budget),
        short_gib(memory.high_bytes),
        short_gib(budget),
        short_gib(abs(spare)) if state.fits or spare < 0 else "",
        "" if rate is None or not state.fits else format_rate(rate),
        "" if step is None or not state.fits else format_duration(step),
        _number(strategies, how),
        candidate.layout.gradient_accumulation_steps,
        candidate.layout.global_batch_size,
    ]


def _number(texts: list[str], text: str) -> int:
    """Return a text's place in a list, to which it is appended if it is new."""
    if text not in texts:
        texts.append(text)
    return texts.index(text)
