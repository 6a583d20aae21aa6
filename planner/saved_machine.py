"""A machine in a file: read where the GPUs are, planned for anywhere."""

import json
import time
from collections.abc import Mapping
from pathlib import Path

from planner.detect import cuda_environment
from planner.errors import InvalidFileError, InvalidRequestError
from planner.output_file import OutputFile
from planner.readings import DeviceReading, Machine
from planner.spec import parse_spec, read_spec


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
    OutputFile(
        option="--save-machine",
        path=path,
        noun="a saved machine",
        is_untouched=_is_machine,
        force=force,
    ).write(render_machine(machine))


def _is_machine(text: str) -> bool:
    try:
        parse_spec(Machine, text, Path())
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
