"""A machine saved where its GPUs are and planned for elsewhere."""

import json
from pathlib import Path

import pytest
from msgspec import structs

from planner.base.errors import InvalidFileError, InvalidRequestError, UnwritableError
from planner.hardware.detect import cluster_from
from planner.hardware.machine_readings import Holder, Machine
from planner.hardware.saved_machine import load_machine, render_machine, save_machine
from tests.nvml.stand_in import HERE, Child
from tests.planner.hardware.test_machine import gpu, machine

MACHINES = sorted(path.stem for path in (HERE / "machines").iterdir())


@pytest.mark.parametrize("name", MACHINES)
def test_the_same_cluster_comes_back(nvml: Child, name: str, tmp_path: Path) -> None:
    """But for the process ids, which mean nothing elsewhere."""
    found = nvml.detect(name)
    assert found.machine is not None
    save_machine(found.machine, tmp_path / "machine.json", force=False)
    back = cluster_from(load_machine(tmp_path / "machine.json", {}))
    assert back.accelerator.free_bytes == found.accelerator.free_bytes
    assert (back.device, back.gpus_per_node) == (found.device, found.gpus_per_node)
    assert (back.link, back.link_bytes_per_s) == (found.link, found.link_bytes_per_s)
    assert back.accelerator.speed == found.accelerator.speed
    assert len(back.notes) == len(found.notes)


def test_planned_elsewhere(nvml: Child, tmp_path: Path) -> None:
    """Saved without a model, planned for where there is no GPU."""
    saved = nvml.plan("eight-h100", "--save-machine", "m.json", "--json", cwd=tmp_path)
    assert json.loads(saved.out)["nvml"]["driver_version"] == "535.183.01"
    arguments = ("--model", "smollm2-135m", "--gpus", "m.json", "--json")
    plan = json.loads(nvml.plan("no-gpu", *arguments, cwd=tmp_path).out)
    assert plan["hardware"]["gpu"] == "h100-sxm-80gb"
    assert plan["plan"]["parallel"]["world_size"] == 8
    few = nvml.plan("no-gpu", *arguments, cwd=tmp_path, CUDA_VISIBLE_DEVICES="0,5")
    assert json.loads(few.out)["plan"]["parallel"]["world_size"] == 2


def test_no_secrets(nvml: Child) -> None:
    """The busy machine's programs were told with a home directory and a token."""
    found = nvml.detect("busy", CUDA_VISIBLE_DEVICES="0").machine
    assert found is not None
    text = render_machine(found)
    assert '"name": "python3"' in text
    for secret in ("/", "someone", "token", "31337", "pid"):
        assert secret not in text.replace("NVIDIA GeForce RTX 4090", "")


def text_with(**changes: object) -> str:
    content = json.loads(render_machine(machine(gpu(0))))
    return json.dumps(content | changes, indent=2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (text_with(nvmll={}), "unknown key 'nvmll'. Did you mean 'nvml'?"),
        (text_with(schema_version=2), "schema_version: it should be 1, not the number 2"),
        (text_with(host=None), "host: it should be a mapping"),
        (text_with().replace('"name"', '"nmae"'), "unknown key 'nvml.devices.0.nmae'."),
        (text_with().replace('"8.9"', '"new"'), "nvml.devices.0.compute_capability"),
        (text_with().replace('"cores": 4', '"cores": 0'), "host.cores"),
        (text_with(nvml={"pairs": [{"one": 0, "other": 1, "nvlinks": 0, "p2p": None}]}), "pair 0"),
        ("[1, 2]", "where keys are expected"),
        ("{", "not YAML"),
    ],
)
def test_bad_files(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "machine.json"
    path.write_text(text)
    with pytest.raises(InvalidFileError) as caught:
        load_machine(path, {})
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_such_file(nvml: Child, tmp_path: Path) -> None:
    answer = nvml.plan("no-gpu", "--model", "smollm2-135m", "--gpus", "no.json", cwd=tmp_path)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err == "error: no.json: cannot be read (No such file or directory)\n"


def test_a_named_card_is_not_saved(nvml: Child, tmp_path: Path) -> None:
    answer = nvml.plan("no-gpu", "--gpus", "24G", "--save-machine", "m.json", cwd=tmp_path)
    assert answer.code == 2
    assert "--save-machine m.json cannot be combined with --gpus 24G" in answer.err


def test_other_files_are_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "machine.json"
    one = machine(gpu(0))
    path.write_text("mine")
    with pytest.raises(InvalidRequestError, match="is not a saved machine: name another"):
        save_machine(one, path, force=False)
    save_machine(one, path, force=True)
    save_machine(one, path, force=False)
    with pytest.raises(UnwritableError, match=r"No such file .* another place with --save-machine"):
        save_machine(one, tmp_path / "no" / "machine.json", force=False)
    for name in ("machine.txt", "", "directory.json"):
        (tmp_path / "directory.json").mkdir(exist_ok=True)
        with pytest.raises(InvalidRequestError, match=r"a file that ends in \.json"):
            save_machine(one, tmp_path / name, force=True)
    assert {each.name for each in tmp_path.iterdir()} == {"machine.json", "directory.json"}


def test_a_file_keeps_what_it_was_told(tmp_path: Path) -> None:
    holder = Holder(pid=7, name="python3", used_bytes=5)
    one = machine(gpu(0, holders=(holder,)), environment={"CUDA_VISIBLE_DEVICES": "0"})
    save_machine(one, tmp_path / "machine.json", force=False)
    back = load_machine(tmp_path / "machine.json", {})
    assert back.saved_on is not None
    assert back.nvml.devices[0].holders == (structs.replace(holder, pid=None),)
    assert back.environment == one.environment
    assert isinstance(back, Machine)
