"""Python processes that this one starts: their command, and the variables that they do without."""

import os
import pwd
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

_ROOT = Path(__file__).parent.parent.parent
"""Folder of this project's packages."""

SAFE_PATH = {"PYTHONSAFEPATH": "1"}
"""The variable that has the effect of ``-P`` for the children of a child, too."""


class Removed(NamedTuple):
    """Variables that are not passed on, and what would read them."""

    names: tuple[str, ...]
    """Names; one that ends in ``*`` stands for all that begin so."""
    why: str


REMOVED = (
    Removed(
        (
            *("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "NODE_RANK"),
            *("GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_RANK", "ROLE_WORLD_SIZE", "ROLE_NAME"),
            *("MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_*"),
        ),
        "The place of a process in another run. A process that is no rank would wait for others "
        "(read: accelerate/state.py at 1.15, transformers/training_args.py at 5.23); torch elastic "
        "gives every rank its own.",
    ),
    Removed(
        ("PET_*", "PYTHON_EXEC"),
        "Defaults of torchrun's options, and its interpreter (read: torch/distributed/"
        "argparse_util.py and run.py at 2.13).",
    ),
    Removed(
        ("PMI_*", "PMIX_*", "MPI_*", "OMPI_*", "MV2_*", "PALS_*", "FORK_LAUNCHED"),
        "Ranks of MPI's launchers. accelerate prefers them to torch elastic's on the CPU (read: "
        "accelerate/state.py and utils/environment.py at 1.15), and DeepSpeed checks its own "
        "against them (read: deepspeed/runtime/engine.py at 0.19).",
    ),
    Removed(
        ("SLURM_*",),
        "The step of an allocation in which launch was called. MPI libraries take the place of a "
        "process from it (srun(1), output environment variables).",
    ),
    Removed(
        ("ACCELERATE_*", "FSDP_*", "MEGATRON_LM_*", "PARALLELISM_CONFIG_*"),
        "Settings of accelerate's launcher, which overrule the plan: ACCELERATE_USE_CPU makes it "
        "skip DeepSpeed silently (read: accelerate/utils/dataclasses.py at 1.15).",
    ),
    Removed(
        ("DEEPSPEED_*", "DS_ACCELERATOR", "SM_*"),
        "Settings of DeepSpeed's and SageMaker's launchers, and the device of another run (read: "
        "deepspeed/constants.py and accelerator/real_accelerator.py at 0.19, "
        "transformers/utils/import_utils.py at 5.23).",
    ),
)
"""Variables of launchers around this one. A run is as its plan says, wherever it is started."""


def module_command(module: str, *, python: str = sys.executable) -> list[str]:
    """Return the command that runs a module with Python.

    A file of the current folder is not imported in the place of a package of the same name.
    """
    return [python, "-P", "-m", module]


def child_environment(caller: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a Python process that a process with ``caller`` starts.

    Variables of other launchers are left out, and so are empty entries of PYTHONPATH, which mean
    the current folder. This project's packages stay importable where only that folder had them.
    """
    kept = {name: value for name, value in caller.items() if not is_removed(name)}
    places = [place for place in caller.get("PYTHONPATH", "").split(os.pathsep) if place]
    if str(_ROOT) not in (*places, *sys.path[1:]):
        places.insert(0, str(_ROOT))
    kept.pop("PYTHONPATH", None)
    if places:
        kept["PYTHONPATH"] = os.pathsep.join(places)
    return {**_user(), **kept, **SAFE_PATH}


def _user() -> dict[str, str]:
    """Return a name for a user whom neither the environment nor passwd names.

    PyTorch names a folder by the user (read: torch/_inductor/runtime/cache_dir_utils.py at 2.13)
    and fails without a name.
    """
    number = os.getuid()
    try:
        pwd.getpwuid(number)
    except KeyError:
        return {"USER": str(number)}
    return {}


def is_removed(name: str) -> bool:
    """Return whether a variable is one of another launcher.

    >>> [name for name in ("RANK", "PMI_SIZE", "NCCL_DEBUG") if is_removed(name)]
    ['RANK', 'PMI_SIZE']
    """
    return any(
        name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern
        for removed in REMOVED
        for pattern in removed.names
    )
