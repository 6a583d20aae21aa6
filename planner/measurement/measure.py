"""Measures the devices of this machine, in a process of the training stack, and keeps that."""

import time
from contextlib import closing
from pathlib import Path
from typing import Any

from msgspec import ValidationError, convert, structs, to_builtins

from planner.base.errors import InvalidRequestError, reason_of
from planner.base.phrases import Phrase
from planner.hardware.cluster import Cluster
from planner.hardware.measured.kept_measurements import keep
from planner.hardware.measured.measurement import Measurement
from planner.measurement.tiny_steps import tiny_steps
from planner.training_stack.stack_process import StackProcess, StackProcessError

MODULE = "launcher.measurement.service"


def measure(cluster: Cluster, folder: Path) -> tuple[Measurement, Path | None]:
    """Return what was measured of a cluster's devices, and the file in which it is kept, if any.

    ``folder`` is on the disk to measure. Raise ``InvalidRequestError`` if the devices cannot be
    measured.
    """
    measurement = measured(cluster, folder)
    return measurement, keep(measurement)


def measured(cluster: Cluster, folder: Path) -> Measurement:
    """Return what is measured now of a cluster's devices; raise as ``measure`` does."""
    card = cluster.accelerator
    question = {
        "name": card.device_name,
        "device": cluster.device,
        "ranks": cluster.gpus_per_node,
        "tiny_steps": to_builtins(
            tiny_steps(structs.replace(cluster, accelerator=_unmeasured(cluster)))
        ),
        "folder": str(folder.absolute()),
        "has_bf16": card.supports_bf16,
    }
    try:
        with closing(StackProcess(MODULE)) as process:
            answer = process.ask(question)
        return _measurement(cluster, answer)
    except (StackProcessError, ValidationError) as failed:
        raise InvalidRequestError(
            Phrase(
                "{device_name} cannot be measured: {reason}",
                device_name=card.device_name,
                reason=reason_of(failed),
            )
        ) from failed


def _unmeasured(cluster: Cluster) -> Any:
    return structs.replace(cluster.accelerator, measured=None)


def _measurement(cluster: Cluster, answer: dict[str, Any]) -> Measurement:
    content = {
        "measured_on": time.strftime("%Y-%m-%d"),
        "device": cluster.device,
        "device_name": cluster.accelerator.device_name,
        "ranks": cluster.gpus_per_node,
        "cores": cluster.cores or 1,
        **answer,
    }
    return convert(content, Measurement)
