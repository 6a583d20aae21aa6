"""Installed packages against the bounds that this distribution declares (setup.cfg)."""

import platform
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec

from launcher.doctor.finding import Finding, failed, passed
from launcher.doctor.subject import Patient

DISTRIBUTION = "tuneplan"
EXTRA = "train"
SHOWN = ("torch", "transformers", "trl", "peft", "bitsandbytes", "deepspeed")
INSTALL = f"pip install '{DISTRIBUTION}[{EXTRA}]'"


def packages(_patient: Patient) -> Finding:
    try:
        declared = requires(DISTRIBUTION) or []
    except PackageNotFoundError:
        return failed(f"{DISTRIBUTION} itself is not installed", "pip install -e '.[train]'")
    if find_spec("packaging") is None:  # every part of the training stack needs it
        return failed("the training stack is not installed", INSTALL)
    return judge_packages(declared, _installed)


def judge_packages(declared: list[str], installed: Callable[[str], str | None]) -> Finding:
    """Everything that the extra ``train`` brings, each within its bounds."""
    from packaging.requirements import Requirement

    wanted = [Requirement(text) for text in declared]
    asked = [each for each in wanted if not each.marker or each.marker.evaluate({"extra": EXTRA})]
    found = {each.name: installed(each.name) for each in asked}
    missing = [str(each.name) for each in asked if found[each.name] is None]
    if missing:
        return failed(f"not installed: {', '.join(missing)}", INSTALL)
    outside = [
        f"{each.name} {found[each.name]} ({each.specifier} is needed)"
        for each in asked
        if not each.specifier.contains(found[each.name] or "", prereleases=True)
    ]
    if outside:
        return failed("; ".join(outside), f"{INSTALL} --upgrade")
    shown = ", ".join(f"{name} {found[name]}" for name in SHOWN if name in found)
    return passed(f"{len(asked)} as declared, Python {platform.python_version()}: {shown}")


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
