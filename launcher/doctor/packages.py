"""Check of the installed packages against the bounds that setup.cfg declares."""

import platform
from collections.abc import Sequence
from importlib.util import find_spec

from launcher.compat.requirements import DISTRIBUTION, INSTALL, Package, declared_packages
from launcher.doctor.finding import Finding, failed, passed, warned
from launcher.doctor.subject import Subject

SHOWN = ("torch", "transformers", "trl", "peft", "bitsandbytes", "deepspeed")
CHECK_INTERNALS = "python -m launcher.compat.check_internals"


def packages(_subject: Subject) -> Finding:
    """Check every package that training needs."""
    if find_spec("packaging") is None:  # every part of the training stack needs it
        return failed("the training stack is not installed", INSTALL)
    return judge_packages(declared_packages())


def judge_packages(declared: Sequence[Package]) -> Finding:
    """Fail for a package that is missing or too old, warn of one that is newer than tested."""
    if not declared:
        return failed(f"{DISTRIBUTION} itself is not installed", "pip install -e '.[train]'")
    missing = [package.name for package in declared if package.standing == "missing"]
    if missing:
        return failed(f"not installed: {', '.join(missing)}", INSTALL)
    old = [package for package in declared if package.standing == "too_old"]
    if old:
        return failed(f"older than needed: {_versions(old)}", f"{INSTALL} --upgrade")
    new = [package for package in declared if package.standing == "newer_than_tested"]
    if new:
        return warned(
            f"newer than tested: {_versions(new)}",
            f"{INSTALL} installs tested versions; {CHECK_INTERNALS} says what has changed in these",
        )
    shown = ", ".join(
        f"{package.name} {package.installed}" for package in declared if package.name in SHOWN
    )
    return passed(f"{len(declared)} as declared, Python {platform.python_version()}: {shown}")


def _versions(packages: Sequence[Package]) -> str:
    return ", ".join(
        f"{package.name} {package.installed} ({package.bounds})" for package in packages
    )
