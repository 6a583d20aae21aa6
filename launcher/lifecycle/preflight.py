"""The checks before a run: does this machine, with its packages, suit the plan?

Nothing expensive has started yet. What does not fit is refused in one line, or a leaner layout of
the plan is taken and named in a note.
"""

import os
from collections.abc import Sequence
from importlib.util import find_spec

from msgspec import structs

from launcher.compat.requirements import INSTALL, declared_packages
from launcher.lifecycle.fallbacks import (
    describe_layout,
    fallback_plans,
    keeps_batch,
    layout_options,
    layout_settings,
)
from launcher.lifecycle.plan_rules import require_rules_kept
from planner.base.errors import InvalidRequestError, NoFormulasError
from planner.base.units import format_gib
from planner.hardware.cluster import Accelerator, Cluster
from planner.hardware.detect import detect, read_cpu
from planner.plan.schema import Plan
from planner.plan.training_section import KEPT_CHECKPOINTS
from planner.search.repredict import on_machine, predicted

TRAINING_PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets")
REPLAN = "To plan for this machine: plan --gpus auto"


def repredicted(plan: Plan, settings: Sequence[str]) -> tuple[Plan, list[str]]:
    """Return a plan that ``--set`` or an editor has changed with a new prediction, and notes.

    ``settings`` are those of ``--set``. Raise ``InvalidRequestError`` if the plan does not fit its
    machine any more.
    """
    if plan.model.config is None:
        return plan, _unknown_effect("the plan has no model.config", settings)
    try:
        fitted = predicted(plan)
    except NoFormulasError as missing:
        return plan, _unknown_effect(missing.reason, settings)
    short_bytes = fitted.prediction.high_bytes - plan.hardware.budget_bytes
    if short_bytes > 0:
        options = " ".join(f"--set {setting}" for setting in settings) or "the edited plan"
        raise InvalidRequestError(f"{options}: {_does_not_fit(fitted, short_bytes, settings)}")
    peak = fitted.prediction.peak_allocated_bytes
    leaner = tuple(
        fallback
        for fallback in plan.fallbacks
        if keeps_batch(fitted, fallback) and fallback.peak_allocated_bytes < peak
    )
    return structs.replace(fitted, fallbacks=leaner), []


def _unknown_effect(reason: str, settings: Sequence[str]) -> list[str]:
    return [f"note: the effect of --set on memory is unknown ({reason})"] if settings else []


def _does_not_fit(plan: Plan, short_bytes: int, settings: Sequence[str]) -> str:
    """Return the shortfall, and a layout of the plan that fits and keeps what is set, if any."""
    budget = plan.hardware.budget_bytes
    line = (
        f"this needs up to {format_gib(plan.prediction.high_bytes)} GiB per device and the plan "
        f"may use {format_gib(budget)} GiB: {format_gib(short_bytes)} GiB short"
    )
    fitting = [
        leaner
        for leaner in fallback_plans(plan)
        if leaner.prediction.high_bytes <= budget and not _changes_a_setting(plan, leaner, settings)
    ]
    if not fitting:
        return f"{line}, and no leaner layout of the plan that keeps these settings fits"
    return f"{line}. It fits with {layout_options(fitting[0])}"


def _changes_a_setting(plan: Plan, layout: Plan, settings: Sequence[str]) -> bool:
    """Return whether a layout changes a key that was set, or a key of a section that was set."""
    keys = {setting.partition("=")[0] for setting in settings}
    now = layout_settings(layout)
    return any(
        now[key] != value and (key in keys or key.partition(".")[0] in keys)
        for key, value in layout_settings(plan).items()
    )


def fitted_here(plan: Plan) -> tuple[Plan, list[str]]:
    """Return the plan in a layout that fits this machine now, and a note for every difference.

    Raise ``InvalidRequestError`` if none fits.
    """
    on_cpu = plan.hardware.device == "cpu"
    return fitted_to(plan, read_cpu() if on_cpu else detect(os.environ))


def fitted_to(plan: Plan, cluster: Cluster) -> tuple[Plan, list[str]]:
    """Return the plan in a layout that fits a machine; raise as ``fitted_here`` does."""
    if plan.hardware.device == "cpu":
        _require_host_ram(plan, cluster)
        return plan, []
    _require_cards(plan, cluster)
    card = cluster.accelerator
    notes = []
    here = plan
    if card.device_name != plan.hardware.device_name:
        notes = [f"note: planned for {plan.hardware.device_name}, run on {card.device_name}"]
        here = _predicted_here(plan, cluster)
    _require_offloading_room(here, cluster)
    for layout in (here, *fallback_plans(here)):
        if layout.prediction.high_bytes <= card.free_bytes:
            if layout is not here:
                notes.append(f"note: {_shortage(here, card)}: {describe_layout(layout)} instead")
            return layout, notes
    raise InvalidRequestError(
        f"{_shortage(here, card)}, and no leaner layout of the plan fits. Free memory. {REPLAN}"
    )


def _predicted_here(plan: Plan, cluster: Cluster) -> Plan:
    try:
        return on_machine(plan, cluster)
    except (InvalidRequestError, NoFormulasError):
        return plan  # whose peak is the same on any card


def _require_cards(plan: Plan, cluster: Cluster) -> None:
    wanted = plan.parallel.gpus_per_node
    planned = f"the plan is for {wanted} x {plan.hardware.device_name} and"
    if cluster.device == "cpu":
        raise InvalidRequestError(f"{planned} this machine has no NVIDIA GPU. {REPLAN}")
    if cluster.gpus_per_node < wanted:
        visible = f"{cluster.gpus_per_node} x {cluster.accelerator.device_name}"
        raise InvalidRequestError(f"{planned} this process sees {visible}. {REPLAN}")
    if plan.precision.compute == "bf16" and not cluster.accelerator.supports_bf16:
        name = cluster.accelerator.device_name
        raise InvalidRequestError(f"{planned} {name} has no bf16 tensor cores. {REPLAN}")
    card = cluster.accelerator
    require_rules_kept(plan, card.compute_capability, card.device_name)


def _require_offloading_room(plan: Plan, cluster: Cluster) -> None:
    """Refuse offloading to a host without the memory for it, as ``plan`` does."""
    need, host = plan.prediction.host_ram_bytes, cluster.host_ram_bytes
    if plan.parallel.offload != "none" and host is not None and need > host:
        raise InvalidRequestError(
            f"offload {plan.parallel.offload} needs about {format_gib(need)} GiB of host memory "
            f"and this machine has {format_gib(host)} GiB. {REPLAN}"
        )


def _require_host_ram(plan: Plan, cluster: Cluster) -> None:
    need, free = plan.prediction.host_ram_bytes, cluster.accelerator.free_bytes
    if need > free:
        raise InvalidRequestError(
            f"the plan needs about {format_gib(need)} GiB of memory and {format_gib(free)} GiB "
            f"are free now: {format_gib(need - free)} GiB short. Free memory. {REPLAN}"
        )


def _shortage(plan: Plan, card: Accelerator) -> str:
    need, free = plan.prediction.high_bytes, card.free_bytes
    holders = ", ".join(str(holder.pid) for holder in card.holders)
    held = f" (held by process {holders})" if holders else ""
    return (
        f"the plan needs up to {format_gib(need)} GiB per GPU and {format_gib(free)} GiB "
        f"are free now{held}"
    )


def needed_disk_bytes(plan: Plan) -> int:
    """Return the bytes of disk that a run needs: its result, and one checkpoint more than it
    keeps."""
    training, predicted = plan.training, plan.prediction
    result = predicted.disk_bytes - (KEPT_CHECKPOINTS + 1) * predicted.checkpoint_bytes
    if training.max_steps is not None and training.max_steps <= training.save_steps:
        return result
    return result + (training.keep_checkpoints + 1) * predicted.checkpoint_bytes


def require_packages(plan: Plan) -> None:
    """Raise ``InvalidRequestError`` if a package that the plan needs is missing or too old."""
    wanted = [*TRAINING_PACKAGES, *plan.training.report_to]
    if plan.quantization is not None:
        wanted.append("bitsandbytes")
    if plan.parallel.zero_stage:
        wanted.append("deepspeed")
    missing = [name for name in wanted if find_spec(name) is None]
    if missing:
        trackers = [name for name in missing if name in plan.training.report_to]
        remedies = [
            *([INSTALL] if len(trackers) < len(missing) else []),
            *([f"pip install {' '.join(trackers)}"] if trackers else []),
        ]
        raise InvalidRequestError(
            f"the plan needs {', '.join(missing)}, which is not installed here: "
            f"{' and '.join(remedies)}"
        )
    old = [
        f"{package.name} {package.installed} is too old ({package.bounds} is needed)"
        for package in declared_packages()
        if package.name in wanted and package.standing == "too_old"
    ]
    if old:
        raise InvalidRequestError(f"{'; '.join(old)}: {INSTALL}")
