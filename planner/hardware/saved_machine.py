"""A machine in a file: read where the GPUs are, planned for anywhere."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec import structs

from planner.base.errors import InvalidFileError, InvalidRequestError
from planner.base.output_file import OutputFile
from planner.base.phrases import Phrase
from planner.base.strict_yaml import Spec, parse_spec, read_spec
from planner.hardware.detect import cuda_environment
from planner.hardware.machine_readings import DeviceReading, Machine


def is_machine_file(text: str) -> bool:
    """Return whether ``--gpus`` names a file: no name of a card ends in ``.json``."""
    return text.strip().lower().endswith(".json")


def load_machine(path: Path, environ: Mapping[str, str]) -> Machine:
    """Return a saved machine; this shell's CUDA variables, where set, choose among its GPUs."""
    machine = read_spec(Machine, path)
    environment = {**machine.environment, **cuda_environment(environ)}
    return structs.replace(machine, environment=environment)


def save_machine(machine: Machine, path: Path, *, force: bool) -> None:
    """Write a machine whole or not at all.

    Raises InvalidRequestError where another file is there, which only ``force`` replaces, or the
    name does not end in ``.json``.
    """
    option = f"--save-machine {path}"
    if not is_machine_file(path.name) or path.is_dir():
        raise InvalidRequestError(
            Phrase("{option}: name a file that ends in .json, as --gpus needs it", option=option)
        )
    OutputFile(
        option="--save-machine",
        path=path,
        noun=Phrase("a saved machine"),
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
    """Return the machine as JSON, without process ids and without what was not reported."""
    nvml = machine.nvml
    devices = tuple(_without_pids(device) for device in nvml.devices)
    shared = structs.replace(
        machine, nvml=structs.replace(nvml, devices=devices), saved_on=time.strftime("%Y-%m-%d")
    )
    content = {"schema_version": machine.schema_version, **_told(shared)}
    return json.dumps(content, indent=2) + "\n"


def _told(part: Spec) -> dict[str, Any]:
    """Return the non-default fields as plain data."""
    defaults = {each.name: each.default for each in structs.fields(part)}
    told = {name: value for name, value in structs.asdict(part).items() if value != defaults[name]}
    return {name: _plain(value) for name, value in told.items()}


def _plain(value: object) -> object:
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return _told(value) if isinstance(value, Spec) else value


def _without_pids(device: DeviceReading) -> DeviceReading:
    holders = device.holders
    if holders is not None:
        holders = tuple(structs.replace(holder, pid=None) for holder in holders)
    slices = tuple(_without_pids(each) for each in device.slices)
    return structs.replace(device, holders=holders, slices=slices)
