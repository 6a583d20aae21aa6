"""Check of the installed packages against the bounds that setup.cfg declares."""

import platform
from collections.abc import Sequence
from importlib.util import find_spec

from launcher.compat.requirements import DISTRIBUTION, INSTALL, Package, declared_packages
from launcher.doctor.finding import Finding, failed, passed, warned
from launcher.doctor.subject import Subject
from planner.base.phrases import Phrase

SHOWN = ("torch", "transformers", "trl", "peft", "bitsandbytes", "deepspeed")
CHECK_INTERNALS = "python -m launcher.compat.check_internals"


def packages(_subject: Subject) -> Finding:
    """Check every package that training needs."""
    if find_spec("packaging") is None:  # every part of the training stack needs it
        return failed(Phrase("the training stack is not installed"), INSTALL)
    return judge_packages(declared_packages())


def judge_packages(declared: Sequence[Package]) -> Finding:
    """Fail for a package that is missing or too old, warn of one that is newer than tested."""
    if not declared:
        return failed(
            Phrase("{distribution} itself is not installed", distribution=DISTRIBUTION),
            "pip install -e '.[train]'",
        )
    missing = [package.name for package in declared if package.standing == "missing"]
    if missing:
        return failed(Phrase("not installed: {missing}", missing=", ".join(missing)), INSTALL)
    old = [package for package in declared if package.standing == "too_old"]
    if old:
        return failed(
            Phrase("older than needed: {versions}", versions=_versions(old)),
            Phrase("{install} --upgrade", install=INSTALL),
        )
    new = [package for package in declared if package.standing == "newer_than_tested"]
    if new:
        return warned(
            Phrase("newer than tested: {versions}", versions=_versions(new)),
            Phrase(
                "{install} installs tested versions; {check_internals} says what has changed "
                "in these",
                install=INSTALL,
                check_internals=CHECK_INTERNALS,
            ),
        )
    shown = ", ".join(
        f"{package.name} {package.installed}" for package in declared if package.name in SHOWN
    )
    return passed(
        Phrase(
            "{number} as declared, Python {python_version}: {names}",
            number=len(declared),
            python_version=platform.python_version(),
            names=shown,
        )
    )


def _versions(packages: Sequence[Package]) -> str:
    return ", ".join(
        f"{package.name} {package.installed} ({package.bounds})" for package in packages
    )
