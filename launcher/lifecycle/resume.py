"""What ``--resume`` resumes from, and why it may refuse to."""

from typing import Any

from msgspec import structs, to_builtins

from launcher.data.inputs import inputs_before
from launcher.data.sources import find_sources
from launcher.lifecycle.fallbacks import fallback_plans
from launcher.run.checkpoints import SavedState, last_sealed, last_whole
from launcher.run.run_directory import RunDirectory
from planner.base.errors import InvalidRequestError
from planner.base.phrases import Joined, Phrase
from planner.base.strict_yaml import read_spec
from planner.plan.plan_differences import differing_keys
from planner.plan.schema import Plan

_NOT_THE_TRAINING: dict[str, set[str]] = {
    "hardware": set(),
    "prediction": set(),
    "fallbacks": set(),
    "output": set(),
    "data": {"source", "sources", "format", "fields", "split"},
    "training": {"logging_steps", "save_steps", "keep_checkpoints", "report_to", "hang_limit_s"},
}
"""Keys that do not affect the training, whole sections if empty; ranks, strategy and precision are
in other keys. Sources are compared by how they are read and by their files' content."""


def interrupted_plan(plan: Plan, run: RunDirectory) -> Plan:
    """Return the plan that was running, the given one or one of its fallbacks, with those keys of
    the given plan that do not affect the training.

    Raise ``InvalidRequestError`` if the folder has no run, or one of another plan or other data.
    """
    if not run.plan.is_file():
        raise InvalidRequestError(
            Phrase("{path} has no run to resume. Leave --resume out to start one", path=run.path)
        )
    running = read_spec(Plan, run.plan)
    if running.parallel.world_size != plan.parallel.world_size:
        raise InvalidRequestError(
            Phrase(
                "{path} was run by {ranks} and the plan is for {planned}: its checkpoints "
                "have a part per rank. Resume with {ranks}, or start another run with "
                "--output DIR",
                path=run.path,
                ranks=_ranks(running),
                planned=_ranks(plan),
            )
        )
    candidates = (plan, *fallback_plans(plan))
    if any(_content(running) == _content(candidate) for candidate in candidates):
        _require_same_files(running, plan, run)
        return structs.replace(running, output=plan.output, data=plan.data, training=plan.training)
    different = differing_keys([_content(running), _content(plan)])
    changed = Joined(
        "; ",
        (
            Phrase("{key} was {was} and is {now}", key=key, was=was, now=now)
            for key, (was, now) in different.items()
        ),
    )
    raise InvalidRequestError(
        Phrase(
            "{path} is a run of another plan ({changed}), and resuming would mix the "
            "two. Resume with {plan}, or start another run with --output DIR",
            path=run.path,
            changed=changed,
            plan=run.plan,
        )
    )


def saved_state(plan: Plan, run: RunDirectory) -> tuple[SavedState | None, list[str]]:
    """Return the last whole checkpoint, if any, and a sentence for every newer, torn one.

    Raise ``InvalidRequestError`` if it was saved under another strategy.
    """
    saved, skipped = last_whole(run.checkpoints)
    if saved is not None and saved.strategy != plan.parallel.strategy:
        raise InvalidRequestError(
            Phrase(
                "{folder} was saved under {strategy} and the plan is for {planned}: use "
                "that strategy, or start another run with --output DIR",
                folder=saved.folder,
                strategy=saved.strategy,
                planned=plan.parallel.strategy,
            )
        )
    return saved, skipped


def check_nothing_to_resume(run: RunDirectory) -> None:
    """Raise ``InvalidRequestError`` if the folder has checkpoints that a new run would replace."""
    step = last_sealed(run.checkpoints)
    if step is not None:
        raise InvalidRequestError(
            Phrase(
                "{path} holds an unfinished run, saved at step {step}. Continue it with "
                "--resume, or choose another place with --output DIR",
                path=run.path,
                step=step,
            )
        )


def _require_same_files(running: Plan, plan: Plan, run: RunDirectory) -> None:
    """Raise ``InvalidRequestError`` if a plan names other data than its run has been prepared with.

    The same files may have another place or name.
    """
    before = inputs_before(run)
    if before is None or running.data == plan.data:
        return
    if [source.digests for source in find_sources(plan.data)] != before.file_digests:
        names = ", ".join(source.source for source in plan.data.every_source)
        raise InvalidRequestError(
            Phrase(
                "{path} was begun with other data than {names}, and resuming would mix the "
                "two. Name the data it was begun with, or start another run with --output DIR",
                path=run.path,
                names=names,
            )
        )


def _content(plan: Plan) -> dict[str, Any]:
    """Return what decides the training, as plain data."""
    content = to_builtins(plan)
    for section, keys in _NOT_THE_TRAINING.items():
        values = content.pop(section)
        if keys:
            content[section] = {key: value for key, value in values.items() if key not in keys}
    reading = [structs.replace(source, source="") for source in plan.data.every_source]
    return {**content, "sources": to_builtins(reading)}


def _ranks(plan: Plan) -> str:
    number = plan.parallel.world_size
    return Phrase("{number} {number[rank|ranks]}", number=number)
