"""The checks before a run: does this machine, with its packages, suit the plan?

Nothing expensive has started yet. What does not fit is refused in one line, or a leaner layout of
the plan is taken and named in a note.
"""

import os
import shutil
import sysconfig
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from msgspec import structs

from launcher.compat.requirements import (
    INSTALL,
    TORCHAO,
    Package,
    declared_packages,
    install_command,
)
from launcher.lifecycle.fallbacks import (
    describe_layout,
    fallback_plans,
    keeps_batch,
    layout_options,
    layout_settings,
)
from launcher.lifecycle.plan_rules import require_rules_kept
from planner.base.errors import InvalidRequestError, NoFormulasError
from planner.base.phrases import Joined, Phrase
from planner.base.units import format_gib
from planner.hardware.cluster import Accelerator, Cluster, Device
from planner.hardware.detect import detect, read_cpu
from planner.plan.optimizer_presets import optimizers
from planner.plan.schema import Plan
from planner.plan.training_section import KEPT_CHECKPOINTS
from planner.search.repredict import on_machine, predicted

TRAINING_PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets")
MODULES = {"apollo-torch": "apollo_torch", "torch-optimi": "optimi"}
"""Modules of packages that have another name."""
REPLAN = Phrase("To plan for this machine: plan --gpus auto")


def repredicted(plan: Plan, settings: Sequence[str]) -> tuple[Plan, list[str]]:
    """Return a plan that ``--set`` or an editor has changed with a new prediction, and notes.

    ``settings`` are those of ``--set``. Raise ``InvalidRequestError`` if the plan does not fit its
    machine any more.
    """
    if plan.model.config is None:
        return plan, _unknown_effect(Phrase("the plan has no model.config"), settings)
    try:
        fitted = predicted(plan)
    except NoFormulasError as missing:
        return plan, _unknown_effect(missing.reason, settings)
    short_bytes = fitted.prediction.high_bytes - plan.hardware.budget_bytes
    if short_bytes > 0:
        options = " ".join(f"--set {setting}" for setting in settings) or Phrase("the edited plan")
        raise InvalidRequestError(
            Joined(": ", [options, _does_not_fit(fitted, short_bytes, settings)])
        )
    peak = fitted.prediction.peak_allocated_bytes
    leaner = tuple(
        fallback
        for fallback in plan.fallbacks
        if keeps_batch(fitted, fallback) and fallback.peak_allocated_bytes < peak
    )
    return structs.replace(fitted, fallbacks=leaner), []


def _unknown_effect(reason: str, settings: Sequence[str]) -> list[str]:
    return (
        [Phrase("note: the effect of --set on memory is unknown ({reason})", reason=reason)]
        if settings
        else []
    )


def _does_not_fit(plan: Plan, short_bytes: int, settings: Sequence[str]) -> str:
    """Return the shortfall, and a layout of the plan that fits and keeps what is set, if any."""
    budget = plan.hardware.budget_bytes
    line = Phrase(
        "this needs up to {high} GiB per device and the plan may use {budget} "
        "GiB: {short} GiB short",
        high=format_gib(plan.prediction.high_bytes),
        budget=format_gib(budget),
        short=format_gib(short_bytes),
    )
    fitting = [
        leaner
        for leaner in fallback_plans(plan)
        if leaner.prediction.high_bytes <= budget and not _changes_a_setting(plan, leaner, settings)
    ]
    if not fitting:
        return Phrase(
            "{line}, and no leaner layout of the plan that keeps these settings fits", line=line
        )
    return Phrase(
        "{line}. It fits with {options}",
        line=line,
        options=layout_options(fitting[0]),
    )


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
    notes: list[str] = []
    here = plan
    if card.device_name != plan.hardware.device_name:
        notes = [
            Phrase(
                "note: planned for {planned}, run on {here}",
                planned=plan.hardware.device_name,
                here=card.device_name,
            )
        ]
        here = _predicted_here(plan, cluster)
    _require_offloading_room(here, cluster)
    for layout in (here, *fallback_plans(here)):
        if layout.prediction.high_bytes <= card.free_bytes:
            if layout is not here:
                notes.append(
                    Phrase(
                        "note: {shortage}: {layout} instead",
                        shortage=_shortage(here, card),
                        layout=describe_layout(layout),
                    )
                )
            return layout, notes
    raise InvalidRequestError(
        Phrase(
            "{shortage}, and no leaner layout of the plan fits. Free memory. {replan}",
            shortage=_shortage(here, card),
            replan=REPLAN,
        )
    )


def _predicted_here(plan: Plan, cluster: Cluster) -> Plan:
    try:
        return on_machine(plan, cluster)
    except (InvalidRequestError, NoFormulasError):
        return plan  # whose peak is the same on any card


def _require_cards(plan: Plan, cluster: Cluster) -> None:
    wanted = plan.parallel.gpus_per_node
    planned = Phrase(
        "the plan is for {wanted} x {card} and",
        wanted=wanted,
        card=plan.hardware.device_name,
    )
    if cluster.device == "cpu":
        raise InvalidRequestError(
            Phrase(
                "{planned} this machine has no NVIDIA GPU. {replan}", planned=planned, replan=REPLAN
            )
        )
    if cluster.gpus_per_node < wanted:
        visible = f"{cluster.gpus_per_node} x {cluster.accelerator.device_name}"
        raise InvalidRequestError(
            Phrase(
                "{planned} this process sees {visible}. {replan}",
                planned=planned,
                visible=visible,
                replan=REPLAN,
            )
        )
    if plan.precision.compute == "bf16" and not cluster.accelerator.supports_bf16:
        name = cluster.accelerator.device_name
        raise InvalidRequestError(
            Phrase(
                "{planned} {name} has no bf16 tensor cores. {replan}",
                planned=planned,
                name=name,
                replan=REPLAN,
            )
        )
    card = cluster.accelerator
    require_rules_kept(plan, card.compute_capability, card.device_name)


def _require_offloading_room(plan: Plan, cluster: Cluster) -> None:
    """Refuse offloading to a host without the memory for it, as ``plan`` does."""
    need, host = plan.prediction.host_ram_bytes, cluster.host_ram_bytes
    offloaded = "activation_offloading" if plan.activation_offloading else ""
    if plan.parallel.offload != "none":
        offloaded = f"offload {plan.parallel.offload}"
    if offloaded and host is not None and need > host:
        raise InvalidRequestError(
            Phrase(
                "{offloaded} needs about {need} GiB of host memory and this machine "
                "has {host} GiB. {replan}",
                offloaded=offloaded,
                need=format_gib(need),
                host=format_gib(host),
                replan=REPLAN,
            )
        )


def _require_host_ram(plan: Plan, cluster: Cluster) -> None:
    need, free = plan.prediction.host_ram_bytes, cluster.accelerator.free_bytes
    if need > free:
        raise InvalidRequestError(
            Phrase(
                "the plan needs about {need} GiB of memory and {free} GiB are free now: "
                "{short} GiB short. Free memory. {replan}",
                need=format_gib(need),
                free=format_gib(free),
                short=format_gib(need - free),
                replan=REPLAN,
            )
        )


def _shortage(plan: Plan, card: Accelerator) -> str:
    need, free = plan.prediction.high_bytes, card.free_bytes
    holders = ", ".join(str(holder.pid) for holder in card.holders)
    held = Phrase(" (held by process {holders})", holders=holders) if holders else ""
    return Phrase(
        "the plan needs up to {need} GiB per GPU and {free} GiB are free now{held}",
        need=format_gib(need),
        free=format_gib(free),
        held=held,
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
    library = optimizers()[plan.optimizer.name].library
    wanted = [*dict.fromkeys([*TRAINING_PACKAGES, library]), *plan.training.report_to]
    if plan.quantization is not None and library != "bitsandbytes":
        wanted.append("bitsandbytes")
    if plan.parallel.zero_stage:
        wanted.append("deepspeed")
    missing = [name for name in wanted if find_spec(name) is None]
    if missing:
        trackers = [name for name in missing if name in plan.training.report_to]
        of_training = [name for name in missing if name not in (*trackers, TORCHAO)]
        remedies = [
            *([INSTALL] if of_training else []),
            *([install_command(TORCHAO)] if TORCHAO in missing else []),
            *([f"pip install {' '.join(trackers)}"] if trackers else []),
        ]
        raise InvalidRequestError(
            Phrase(
                "the plan needs packages that are not installed here ({packages}): {remedies}",
                packages=", ".join(missing),
                remedies=Joined(" and ", remedies),
            )
        )
    for declared, install in (
        (declared_packages(), INSTALL),
        (declared_packages(TORCHAO), install_command(TORCHAO)),
    ):
        _require_new_enough(declared, wanted, install)


def _require_new_enough(declared: Sequence[Package], wanted: Sequence[str], install: str) -> None:
    old = [
        Phrase(
            "{name} {installed} is too old ({bounds} is needed)",
            name=package.name,
            installed=package.installed,
            bounds=package.bounds,
        )
        for package in declared
        if MODULES.get(package.name, package.name) in wanted and package.standing == "too_old"
    ]
    if old:
        raise InvalidRequestError(Joined(": ", [Joined("; ", old), install]))


def require_software(plan: Plan) -> None:
    """Raise ``InvalidRequestError`` if a package or a compiler that a run of the plan needs is
    missing, or a package is too old."""
    require_packages(plan)
    if optimizers()[plan.optimizer.name].is_compiled:
        require_compiler(plan.hardware.device)


def require_compiler(device: Device) -> None:
    """Raise ``InvalidRequestError`` if the update of an optimizer cannot be compiled here.

    read: triton/runtime/build.py at 3.7.1, _build, for kernels on a card, and
    torch/_inductor/cpp_builder.py at 2.13, cpp_compiler_search, for those of the CPU.
    """
    variable, usual = ("CC", ("gcc", "clang")) if device == "cuda" else ("CXX", ("g++",))
    named = os.environ.get(variable)
    compilers = usual if named is None else (named,)
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    lacking = [
        *([compilers[0]] if not any(map(shutil.which, compilers)) else []),
        *([str(headers)] if not headers.is_file() else []),
    ]
    if lacking:
        raise InvalidRequestError(
            Phrase(
                "this optimizer's update is compiled in the first step, for which this machine "
                "lacks {lacking}. Debian and Ubuntu: apt install g++ python3-dev. Or choose "
                "another: plan --optimizer adamw_torch_fused",
                lacking=", ".join(lacking),
            )
        )
