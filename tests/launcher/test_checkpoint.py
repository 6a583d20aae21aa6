"""Where a plan's model is found, and what is said where it is not."""

import json
from io import StringIO
from pathlib import Path

import pytest

from launcher.checkpoint import Checkpoint, ModelNotFoundError, is_complete, local_checkpoint
from planner.plan import ModelSection


def model(source: str) -> ModelSection:
    return ModelSection(
        name="x", source=source, model_type="llama", num_params=1, trainable_params=1
    )


def checkpoint(folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_text("{}", encoding="utf-8")
    return folder


def test_a_folder_is_used_where_it_is(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "m", "config.json", "model.safetensors", "tokenizer.json")
    assert local_checkpoint(model(str(folder)), StringIO()) == Checkpoint(folder, str(folder))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "holds no config.json"),
        (["config.json", "pytorch_model.bin"], "lacks safetensors weights"),
        (["config.json", "model.safetensors"], "holds no tokenizer"),
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
    checkpoint(folder, "b.safetensors")
    assert is_complete(folder)


@pytest.mark.parametrize("source", ["./gone", "/gone/model", "~/gone", "a/b/c"])
def test_a_path_is_never_taken_for_a_hub_id(source: str) -> None:
    with pytest.raises(ModelNotFoundError, match=r"model folder .* does not exist"):
        local_checkpoint(model(source), StringIO())
