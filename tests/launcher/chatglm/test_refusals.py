"""What is not a whole ChatGLM checkpoint is refused with a line, before anything is written."""

import json
import shutil
import struct
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch

from launcher.chatglm.command import WeightLayout, convert
from launcher.cli.launch_command import launch
from planner.base.errors import InvalidFileError, InvalidRequestError
from tests.launcher.chatglm.original import Tensors, random_tensors, write_original

VOCAB = 300
FUSED_BIAS = "transformer.encoder.layers.1.self_attention.query_key_value.bias"


@pytest.fixture(scope="module")
def weights() -> Tensors:
    return random_tensors(VOCAB)


def converted(source: Path, target: Path, to: WeightLayout = "native") -> None:
    convert(source, target, to, StringIO())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(FUSED_BIAS), f"lacks {FUSED_BIAS}. Fetch it again"),
        (
            lambda t: t.update({FUSED_BIAS: torch.zeros(127)}),
            f"{FUSED_BIAS} is 127; its config.json says 128",
        ),
        (
            lambda t: t.update({"transformer.prefix_encoder.weight": torch.zeros(2)}),
            "has transformer.prefix_encoder.weight, which its config.json does not explain",
        ),
        (
            lambda t: t.update({FUSED_BIAS: torch.zeros(128, dtype=torch.int8)}),
            f"{FUSED_BIAS} is I8 instead of 16 or 32 bit floating point",
        ),
    ],
)
def test_other_tensors_are_refused(
    change: Any, message: str, weights: Tensors, tmp_path: Path
) -> None:
    changed = dict(weights)
    change(changed)
    write_original(tmp_path / "source", changed)
    with pytest.raises(InvalidFileError, match=message.replace(".", r"\.")):
        converted(tmp_path / "source", tmp_path / "native")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quantization_bit": 4}, "quantization_bit is 4; in GLM weights are in 16 or 32 bit"),
        ({"add_bias_linear": True}, "add_bias_linear is True; in GLM only query, key and value"),
        ({"position_encoding_2d": True}, "is the first ChatGLM-6B"),
        ({"num_layers": "2"}, "num_layers: '2' is not a whole number above 0"),
        (
            {"num_layers": 3},
            r"lacks transformer.encoder.layers.2.input_layernorm.weight and 6 more",
        ),
    ],
)
def test_other_configurations_are_refused(
    changes: dict[str, Any], message: str, weights: Tensors, tmp_path: Path
) -> None:
    write_original(tmp_path / "source", weights, **changes)
    with pytest.raises(InvalidFileError, match=message):
        converted(tmp_path / "source", tmp_path / "native")


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_damaged_files_are_refused(kind: str, weights: Tensors, tmp_path: Path) -> None:
    source = tmp_path / "source"
    write_original(source, weights, kind=kind, num_shards=2)
    [first, second] = sorted(source.glob(f"*.{kind}"))
    whole = second.read_bytes()
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"
    for content, message in (
        (whole[:-1000], "ends before the end of|is damaged"),
        (pointer, "is damaged, or only a Git LFS pointer"),
        (b"", "is damaged"),
    ):
        second.write_bytes(content)
        with pytest.raises(InvalidFileError, match=message):
            converted(source, tmp_path / "native")
    second.unlink()
    with pytest.raises(InvalidFileError, match=f"names {second.name}, which is missing"):
        converted(source, tmp_path / "native")
    first.unlink()


HEADERS: dict[str, object] = {
    "a list": [],
    "no table": {"a": 3},
    "no offsets": {"a": {"dtype": "F16", "shape": [1]}},
    "backwards": {"a": {"dtype": "F16", "shape": [1], "data_offsets": [4, 2]}},
    "before the file": {"a": {"dtype": "F16", "shape": [1], "data_offsets": [-2, 0]}},
    "another size": {"a": {"dtype": "F16", "shape": [2**40], "data_offsets": [0, 2]}},
    "no rows": {"a": {"dtype": "F16", "shape": [0, 4], "data_offsets": [0, 2]}},
    "words": {"a": {"dtype": "F16", "shape": ["x"], "data_offsets": [0, 2]}},
}


@pytest.mark.parametrize("header", HEADERS)
def test_a_table_that_lies_is_refused(header: str, weights: Tensors, tmp_path: Path) -> None:
    source = tmp_path / "source"
    write_original(source, weights)
    [file] = source.glob("*.safetensors")
    table = json.dumps(HEADERS[header]).encode()
    file.write_bytes(struct.pack("<Q", len(table)) + table + bytes(8))
    with pytest.raises(InvalidFileError, match="is damaged"):
        converted(source, tmp_path / "native")


def test_a_table_nested_without_end_is_refused(weights: Tensors, tmp_path: Path) -> None:
    source = tmp_path / "source"
    write_original(source, weights)
    [file] = source.glob("*.safetensors")
    table = b'{"a":' * 200_000
    file.write_bytes(struct.pack("<Q", len(table)) + table)
    with pytest.raises(InvalidFileError, match="is damaged"):
        converted(source, tmp_path / "native")


class Code:
    """Pickled, it asks for a call."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return print, ("code from a checkpoint was run",)


def test_pickled_code_is_not_run(
    weights: Tensors, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_original(tmp_path / "source", weights, kind="bin")
    torch.save({**weights, "more": Code()}, tmp_path / "source" / "pytorch_model.bin")
    with pytest.raises(InvalidFileError, match="has more than tensors, which is not loaded"):
        converted(tmp_path / "source", tmp_path / "native")
    assert capfd.readouterr().out == ""


def test_other_folders_are_refused(weights: Tensors, tiny_checkpoint: Path, tmp_path: Path) -> None:
    source, native = tmp_path / "source", tmp_path / "native"
    write_original(source, weights)
    converted(source, native)
    for folder, to, message in (
        (native, "native", "is already native. --to chatglm converts it back"),
        (source, "chatglm", "is already in ChatGLM's own layout"),
        (tiny_checkpoint, "native", "is not a ChatGLM checkpoint: its model_type is 'llama'"),
        (tiny_checkpoint, "chatglm", "was not made from a ChatGLM checkpoint"),
        (tmp_path / "gone", "native", "is not a folder"),
        (tmp_path, "native", "has neither config.json nor adapter_config.json"),
    ):
        with pytest.raises(InvalidRequestError, match=message):
            converted(folder, tmp_path / "target", to)  # type: ignore[arg-type]
    with pytest.raises(InvalidRequestError, match="already exists"):
        converted(source, native)


def test_a_full_disk(weights: Tensors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_original(tmp_path / "source", weights)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: shutil._ntuple_diskusage(9, 9, 0))
    with pytest.raises(InvalidRequestError, match=r"has 0\.00 GiB of free disk and the converted"):
        converted(tmp_path / "source", tmp_path / "native")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"plan_file": None}, "name a plan: launch plan.yaml"),
        ({"plan_file": None, "to": "chatglm"}, "--to needs --convert"),
        (
            {"plan_file": Path("plan.yaml"), "conversion": (Path("a"), Path("b"))},
            "PLAN and --convert cannot be combined",
        ),
        ({"plan_file": None, "conversion": (Path("/gone"), Path("b"))}, "/gone is not a folder"),
    ],
)
def test_options_that_do_not_go_together(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        launch(**options)


def test_a_target_that_cannot_be_written(weights: Tensors, tmp_path: Path) -> None:
    write_original(tmp_path / "source", weights)
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(InvalidRequestError, match=r"cannot write .*: Not a directory"):
        converted(tmp_path / "source", tmp_path / "file" / "native")
