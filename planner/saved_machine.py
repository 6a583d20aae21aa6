"""A machine in a file: read where the GPUs are, planned for anywhere."""

import json
import time
from collections.abc import Mapping
from pathlib import Path

from planner.detect import cuda_environment
from planner.errors import InvalidFileError, InvalidRequestError
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
    """Whole or not at all; another file is replaced only by force, or if it is a machine too."""
    option = f"--save-machine {path}"
    if not is_machine_file(path.name) or path.is_dir():
        raise InvalidRequestError(f"{option}: name a file that ends in .json, as --gpus needs it")
    if path.exists() and not force and not _is_saved(path):
        raise InvalidRequestError(
            f"{option}: there is a file that is no saved machine; choose another name, or --force "
            "replaces it"
        )
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(render_machine(machine), encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise InvalidRequestError(f"{option}: cannot write ({error.strerror or error})") from error


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
