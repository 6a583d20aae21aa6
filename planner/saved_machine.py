"""A machine in a file: read where the GPUs are, planned for anywhere."""

import json
import time
from collections.abc import Mapping
from pathlib import Path

from planner.detect import cuda_environment
from planner.errors import InvalidFileError, InvalidRequestError, UnwritableError
from planner.readings import DeviceReading, Machine
from planner.spec import read_spec


def is_machine_file(text: str) -> bool:
    """Whether ``--gpus`` names a file: no card's name ends so."""
    return text.strip().lower().endswith(".json")


def load_machine(path: Path, environ: Mapping[str, str]) -> Machine:
    """As saved; this shell's CUDA variables, where set, choose among its GPUs."""
    machine = read_spec(Machine, path)
    environment = {**machine.environment, **cuda_environment(environ)}
    return machine.model_copy(update={"environment": environment})


def save_machine(machine: Machine, path: Path, *, force: bool) -> None:
    """Replaces a file only if that is a saved machine too."""
    if path.exists() and not force and not _is_saved(path):
        raise InvalidRequestError(
            f"--save-machine {path}: there is a file that is no saved machine; choose another "
            "name, or --force replaces it"
        )
    try:
        path.write_text(render_machine(machine), encoding="utf-8")
    except OSError as error:
        raise UnwritableError(path, error) from error


def _is_saved(path: Path) -> bool:
    try:
        read_spec(Machine, path)
    except InvalidFileError:
        return False
    return True


def render_machine(machine: Machine) -> str:
    """JSON without what means nothing elsewhere; what was not told is left out."""
    nvml = machine.nvml
    devices = tuple(_without_pids(device) for device in nvml.devices)
    shared = machine.model_copy(
        update={
            "nvml": nvml.model_copy(update={"devices": devices}),
            "saved_on": time.strftime("%Y-%m-%d"),
        }
    )
    content = shared.model_dump(mode="json", exclude_defaults=True)
    return json.dumps({"schema_version": machine.schema_version, **content}, indent=2) + "\n"


def _without_pids(device: DeviceReading) -> DeviceReading:
    holders = device.holders
    if holders is not None:
        holders = tuple(holder.model_copy(update={"pid": None}) for holder in holders)
    slices = tuple(_without_pids(each) for each in device.slices)
    return device.model_copy(update={"holders": holders, "slices": slices})
