"""``--with KEY=VALUE`` for Slurm; the keys are long options of sbatch."""

import re
from typing import Annotated

from msgspec import Meta

from planner.base.errors import InvalidRequestError
from planner.base.phrases import Phrase
from planner.base.strict_yaml import PositiveInt, Spec
from planner.plan.schema import Plan

Word = Annotated[str, Meta(pattern=r"^\S+\Z")]

SIGNAL_LATENCY_S = 60
"""Seconds by which a signal may come earlier than asked for; read: sbatch(1) of 22.05, --signal."""

_GRES_OF_GPUS = re.compile(r"gpu(?::[A-Za-z_][^:]*)?(?::(?P<number>\d+))?")


class SlurmSettings(Spec):
    """``--with KEY=VALUE`` for Slurm."""

    partition: Word | None = None
    """Partition to request nodes of."""
    account: Word | None = None
    """Account that is charged."""
    qos: Word | None = None
    """Quality of service."""
    reservation: Word | None = None
    """Reservation to take nodes from."""
    constraint: Word | None = None
    """Features that the nodes must have."""
    exclude: Word | None = None
    """Names of nodes to leave out."""
    time: (
        Annotated[str, Meta(pattern=r"^(\d+|\d+:\d+|\d+:\d+:\d+|\d+-\d+(:\d+){0,2})\Z")] | None
    ) = None
    """Time limit: ``12:00:00``, ``1-12``, or minutes; 0 for none (sbatch(1) of 22.05, --time); if
    left out, the partition's."""
    gres: Word | None = None
    """Generic resources instead of ``--gpus-per-node``, if GPUs have types: ``gpu:h100:8``."""
    cpus_per_task: PositiveInt | None = None
    """Cores of a node, whose one task is ``launch``."""
    mem: Annotated[str, Meta(pattern=r"^\d+[KMGT]?\Z")] | None = None
    """Memory of a node; if left out, what the plan predicts."""
    warning: Annotated[int, Meta(ge=0, le=65535)] = 120
    """Seconds before the time limit at which the run is saved and stopped."""
    export: Annotated[str, Meta(pattern=r"^[A-Za-z_]\w*(,[A-Za-z_]\w*)*\Z")] = "ALL"
    """Names of the environment variables that Slurm passes on to the job."""


def check_settings(settings: SlurmSettings, plan: Plan) -> None:
    """Raise ``InvalidRequestError`` if the settings contradict each other or the plan."""
    if settings.time is not None:
        least = settings.warning + SIGNAL_LATENCY_S
        if 0 < limit_seconds(settings.time) <= least:
            raise InvalidRequestError(
                Phrase(
                    "--with time={time} ends before anything is trained: the warning comes up to "
                    "{least} s before the limit. Set more time, or a later --with warning",
                    time=settings.time,
                    least=least,
                )
            )
    wanted = plan.parallel.gpus_per_node if plan.hardware.device == "cuda" else 0
    requested = gpus_in(settings.gres)
    if requested is not None and requested != wanted:
        raise InvalidRequestError(
            Phrase(
                "--with gres={gres} requests {requested} {requested[GPU|GPUs]} per node and the "
                "plan is for {wanted}. Request as many, or plan again",
                gres=settings.gres,
                requested=requested,
                wanted=wanted,
            )
        )


def limit_seconds(time: str) -> int:
    """Return the seconds of a time limit in sbatch's format.

    >>> [limit_seconds(time) for time in ("30", "30:15", "1:30:15", "1-2", "1-2:03", "1-2:03:04")]
    [1800, 1815, 5415, 93600, 93780, 93784]
    """
    days, dash, clock = time.rpartition("-")
    parts = [int(part) for part in clock.split(":")]
    units = (3600, 60, 1) if dash or len(parts) == 3 else (60, 1)
    seconds = sum(part * unit for part, unit in zip(parts, units, strict=False))
    return int(days or 0) * 86400 + seconds


def gpus_in(gres: str | None) -> int | None:
    """Return the number of GPUs in generic resources; None if there are none.

    >>> gpus_in("gpu:h100:8,tmpdisk:10G"), gpus_in("gpu:2"), gpus_in("gpu"), gpus_in("tmpdisk:10G")
    (8, 2, 1, None)
    """
    matches = [_GRES_OF_GPUS.fullmatch(entry) for entry in (gres or "").split(",")]
    numbers = [int(match["number"] or 1) for match in matches if match is not None]
    return sum(numbers) if numbers else None
