"""Pipes, devices and sockets in the place of files: one line at once, and never a wait."""

import os
import signal
import socket
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path

import pytest

from launcher.base_model.find_checkpoint import local_checkpoint
from launcher.base_model.tokenizer_files import find_tokenizer
from launcher.chatglm.command import convert
from launcher.data.sources import data_files
from launcher.run.checkpoints import CONTENTS, last_whole, seal
from launcher.run.read_plan import read_plan
from launcher.storage.weight_files import SINGLE, write_index
from planner.base.errors import UserError
from planner.cli.model_option import load_model_dir
from planner.hardware.saved_machine import load_machine
from planner.plan.data_section import DataSource
from planner.plan.schema import ModelSection
from planner.recipes.load_recipe import load_recipe

MODEL_FILES = {
    "config.json": b"{}",
    SINGLE: (2).to_bytes(8, "little") + b"{}",
    "tokenizer.json": b"{}",
    "tokenizer_config.json": b"{}",
    "chat_template.jinja": b"",
}
"""The table of the weights has no tensors."""


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


@pytest.fixture(params=[_pipe, _device, _socket])
def make(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], Path]]:
    """Puts one of the three at a name in the current folder; a wait for it fails the test."""
    monkeypatch.chdir(tmp_path)  # a socket's path has 107 bytes at most

    def made(name: str) -> Path:
        request.param(Path(name))
        return Path(name)

    signal.alarm(10)
    yield made
    signal.alarm(0)


def source(name: str) -> DataSource:
    return DataSource(source=name)


def model(folder: str) -> ModelSection:
    return ModelSection(
        name="x", source=folder, model_type="llama", num_params=1, trainable_params=1
    )


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(UserError) as raised:
        call()
    (line,) = str(raised.value).splitlines()
    return line


Make = Callable[[str], Path]


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "parquet", "arrow"])
def test_data(suffix: str, make: Make) -> None:
    name = f"./data.{suffix}"
    make(name)
    assert "is a pipe, a device or a socket" in refused(lambda: data_files(source(name)))


def test_a_folder_of_data(make: Make) -> None:
    Path("data").mkdir()
    Path("data/a.jsonl").write_text("{}", encoding="utf-8")
    make("data/b.jsonl")
    assert "b.jsonl: is a pipe" in refused(lambda: data_files(source("./data")))


@pytest.mark.parametrize("name", ["state.json", "data.arrow"])
def test_a_saved_data_set(name: str, make: Make) -> None:
    Path("data/train").mkdir(parents=True)
    Path("data/dataset_dict.json").write_text('{"splits": ["train"]}', encoding="utf-8")
    if name != "state.json":
        state = '{"_data_files": [{"filename": "data.arrow"}]}'
        Path("data/train/state.json").write_text(state, encoding="utf-8")
    make(f"data/train/{name}")
    assert "state.json: " in refused(lambda: data_files(source("./data")))


@pytest.mark.parametrize("name", [*MODEL_FILES, "additional_chat_templates/rag.jinja"])
def test_a_model(name: str, make: Make) -> None:
    Path("model/additional_chat_templates").mkdir(parents=True)
    for other, content in MODEL_FILES.items():
        if other != name:
            Path("model", other).write_bytes(content)
    make(f"model/{name}")
    for call in (
        lambda: local_checkpoint(model("./model"), StringIO()),
        lambda: find_tokenizer(model("./model")),
        lambda: convert(Path("model"), Path("converted"), "native", StringIO()),
    ):
        assert f"{name}: is a pipe, a device or a socket" in refused(call)
    if name == "config.json":
        assert "holds no config.json" in refused(lambda: load_model_dir(Path("model")))


def test_a_shard_of_weights(make: Make) -> None:
    for name in ("config.json", "tokenizer.json", "a.safetensors"):
        Path(name).write_bytes(MODEL_FILES.get(name, MODEL_FILES[SINGLE]))
    write_index(Path(), {"x": "a.safetensors", "y": "b.safetensors"}, 0)
    make("b.safetensors")
    line = refused(lambda: local_checkpoint(model("."), StringIO()))
    assert "b.safetensors: is a pipe, a device or a socket" in line


@pytest.mark.parametrize("name", [CONTENTS, "weights"])
def test_a_checkpoint_is_skipped(name: str, make: Make) -> None:
    checkpoint = Path("checkpoint-3")
    checkpoint.mkdir()
    (checkpoint / "weights").write_bytes(b"0")
    seal(checkpoint, world_size=1, strategy="single")
    (checkpoint / name).unlink()
    make(str(checkpoint / name))
    found, (line,) = last_whole(Path())
    assert found is None
    assert "is skipped: " in line


PEOPLES: dict[str, Callable[[Path], object]] = {
    "plan.yaml": read_plan,
    "machine.json": lambda path: load_machine(path, {}),
    "recipe.yaml": lambda path: load_recipe(str(path)),
    "recipe.py": lambda path: load_recipe(str(path)),
}


@pytest.mark.parametrize("name", PEOPLES)
def test_files_that_people_write(name: str, make: Make) -> None:
    path = make(name)
    assert refused(lambda: PEOPLES[name](path)) == f"{path}: is not a regular file"


@pytest.mark.parametrize("name", ["../a.arrow", "/etc/passwd"])
def test_a_saved_data_set_names_only_its_own_files(name: str, tmp_path: Path) -> None:
    state = f'{{"_data_files": [{{"filename": "{name}"}}]}}'
    (tmp_path / "state.json").write_text(state, encoding="utf-8")
    assert "outside its folder" in refused(lambda: data_files(source(str(tmp_path))))


def test_a_link_to_nothing_is_not_left_out_silently(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("{}", encoding="utf-8")
    (tmp_path / "b.jsonl").symlink_to("gone.jsonl")
    assert "b.jsonl: is a link to a file that" in refused(lambda: data_files(source(str(tmp_path))))
