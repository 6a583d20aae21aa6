"""Where a plan's model is found, and what is said where it is not."""

import json
import shutil
from io import StringIO
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError
from huggingface_hub.utils._paths import filter_repo_objects

from launcher.base_model.find_checkpoint import Checkpoint, ModelNotFoundError, local_checkpoint
from launcher.storage.weight_files import has_weights, is_complete, weight_files, write_index
from planner.base.errors import InvalidFileError
from planner.plan.schema import ModelSection
from tests.launcher.chatglm.original import random_tensors, write_original

NO_TENSORS = (2).to_bytes(8, "little") + b"{}"
"""The length of a table, and a table without tensors."""


def model(source: str) -> ModelSection:
    return ModelSection(
        name="x", source=source, model_type="llama", num_params=1, trainable_params=1
    )


def checkpoint(folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_bytes(NO_TENSORS if name.endswith(".safetensors") else b"{}")
    return folder


def test_a_folder_is_used_where_it_is(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "m", "config.json", "model.safetensors", "tokenizer.json")
    assert local_checkpoint(model(str(folder)), StringIO()) == Checkpoint(folder, str(folder))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "has no config.json"),
        (["config.json", "pytorch_model.bin"], "lacks safetensors weights"),
        (["config.json", "model.safetensors"], "has no tokenizer"),
    ],
)
def test_a_folder_that_lacks_something(tmp_path: Path, names: list[str], message: str) -> None:
    folder = checkpoint(tmp_path / "m", *names)
    with pytest.raises(ModelNotFoundError, match=message):
        local_checkpoint(model(str(folder)), StringIO())


def test_every_shard_must_be_there(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "m", "config.json", "a.safetensors")
    shards = {"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps(shards), encoding="utf-8")
    assert not is_complete(folder)
    assert not has_weights(folder)
    checkpoint(folder, "b.safetensors")
    assert is_complete(folder)
    assert weight_files(folder) == [folder / "a.safetensors", folder / "b.safetensors"]


@pytest.mark.parametrize("name", ["../a.safetensors", "/etc/passwd", "b/../../a.safetensors"])
def test_a_shard_outside_of_its_folder_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").touch()
    folder = checkpoint(tmp_path / "m", "config.json")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"x": name}}), encoding="utf-8")
    assert not is_complete(folder)
    with pytest.raises(InvalidFileError, match="which is not in its folder"):
        weight_files(folder)


def test_a_single_file_goes_before_shards_and_pickled_ones(tmp_path: Path) -> None:
    """As transformers reads them."""
    folder = checkpoint(
        tmp_path / "m", "config.json", "pytorch_model.bin", "consolidated.safetensors"
    )
    assert weight_files(folder) == [folder / "pytorch_model.bin"]
    assert not is_complete(folder)
    write_index(folder, {"x": "a.safetensors", "y": "gone.safetensors"}, total_bytes=2)
    with pytest.raises(InvalidFileError, match=r"names a\.safetensors, which is missing"):
        weight_files(folder)
    checkpoint(folder, "model.safetensors")
    assert weight_files(folder) == [folder / "model.safetensors"]


@pytest.mark.parametrize("source", ["./gone", "/gone/model", "~/gone", "a/b/c"])
def test_a_path_is_never_taken_for_a_hub_id(source: str) -> None:
    with pytest.raises(ModelNotFoundError, match=r"model folder .* does not exist"):
        local_checkpoint(model(source), StringIO())


def test_a_chatglm_model_on_the_hub_may_be_pickled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its shards are fetched for the conversion, and its code to be given back with it."""
    hub, here = tmp_path / "hub", tmp_path / "here"
    weights = random_tensors(300)
    write_original(hub, weights, kind="bin", num_shards=2)
    here.mkdir()

    def download(_name: str, *, allow_patterns: list[str] | None = None, **_: Any) -> str:
        if allow_patterns is None:
            raise LocalEntryNotFoundError("nothing here")
        for pattern in allow_patterns:
            for file in hub.glob(pattern):
                shutil.copyfile(file, here / file.name)
        return str(here)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: None)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    found = local_checkpoint(model("zai-org/chatglm3-6b-base"), StringIO())
    assert is_complete(found.folder)
    assert found.name == str(found.folder)
    assert (found.folder / "original" / "modeling_chatglm.py").is_file()


def test_another_copy_of_the_weights_is_not_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Among these files of Mistral's and Llama's on the hub."""
    there = ["config.json", "tokenizer.json", "model.safetensors", "consolidated.safetensors"]
    asked: list[str] = []

    def download(
        _name: str,
        *,
        allow_patterns: list[str] | None = None,
        ignore_patterns: list[str] | None = None,
        **_: Any,
    ) -> str:
        if allow_patterns is None:
            raise LocalEntryNotFoundError("nothing here")
        files = [*there, "original/params.json", "original/consolidated.00.pth"]
        asked.extend(
            filter_repo_objects(
                files, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns
            )
        )
        return str(checkpoint(tmp_path, *asked))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: None)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    local_checkpoint(model("mistralai/some-model"), StringIO())
    assert asked == there[:3]
