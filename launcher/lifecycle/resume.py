"""What ``--resume`` goes on from, and why it may refuse."""

from collections.abc import Iterator
from typing import Any

from msgspec import to_builtins

from launcher.lifecycle.fallbacks import fallback_plans
from launcher.run.checkpoints import SavedState, last_sealed, last_whole
from launcher.run.run_directory import RunDirectory
from planner.base.errors import InvalidRequestError
from planner.base.strict_yaml import read_spec
from planner.plan.schema import Plan

_ABOUT_THE_MACHINE = ("hardware", "prediction", "fallbacks")
"""Keys that change nothing about the training; ranks, strategy and precision have others."""


def interrupted_plan(plan: Plan, run: RunDirectory) -> Plan:
    """The plan that was running, or why it is not a run of this one.

    It is the given plan, or that with one of its fallbacks, which memory had forced.
    """
    if not run.plan.is_file():
        raise InvalidRequestError(
            f"{run.path} holds no run to go on with. Leave --resume out to begin one"
        )
    running = read_spec(Plan, run.plan)
    if running.parallel.world_size != plan.parallel.world_size:
        raise InvalidRequestError(
            f"{run.path} was run by {_ranks(running)}, and the plan is for {_ranks(plan)}: its "
            f"checkpoints hold a part for each rank. Go on with {_ranks(running)}, or begin anew "
            "with another --output DIR"
        )
    candidates = (plan, *fallback_plans(plan))
    if any(_trains_alike(running, each) for each in candidates):
        return running
    changed = "; ".join(_differences(_content(running), _content(plan)))
    raise InvalidRequestError(
        f"{run.path} is a run of another plan ({changed}), and going on would mix the two. "
        f"Resume with {run.plan}, or begin anew with another --output DIR"
    )


def saved_state(plan: Plan, run: RunDirectory) -> tuple[SavedState | None, list[str]]:
    """The last whole checkpoint, and a sentence for each torn one."""
    saved, passed_over = last_whole(run.checkpoints)
    if saved is not None and saved.strategy != plan.parallel.strategy:
        raise InvalidRequestError(
            f"{saved.folder} was saved under {saved.strategy}, and the plan is for "
            f"{plan.parallel.strategy}: take that strategy, or begin anew with --output DIR"
        )
    return saved, passed_over


def check_nothing_to_resume(run: RunDirectory) -> None:
    """A run that can be gone on with is not begun anew over its checkpoints."""
    step = last_sealed(run.checkpoints)
    if step is not None:
        raise InvalidRequestError(
            f"{run.path} holds an unfinished run, saved at step {step}. Go on with "
            "--resume, or choose another place with --output DIR"
        )


def _trains_alike(one: Plan, other: Plan) -> bool:
    return _content(one) == _content(other)


def _content(plan: Plan) -> dict[str, Any]:
    content = to_builtins(plan)
    return {key: value for key, value in content.items() if key not in _ABOUT_THE_MACHINE}


def _differences(was: Any, now: Any, key: str = "") -> Iterator[str]:
    if isinstance(was, dict) and isinstance(now, dict):
        for name in was | now:
            yield from _differences(was.get(name), now.get(name), f"{key}.{name}" if key else name)
    elif was != now:
        yield f"{key} was {was} and is {now}"


def _ranks(plan: Plan) -> str:
    number = plan.parallel.world_size
    return f"{number} rank" if number == 1 else f"{number} ranks"
