"""A checkpoint in MXFP4 as a plain one, held to what transformers makes of it."""

import json
from io import StringIO
from pathlib import Path

import pytest
import torch
from msgspec import structs
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Mxfp4Config

from launcher.base_model import mxfp4
from planner.base.errors import InvalidFileError, InvalidRequestError
from tests.oracle.small_models import SHAPES, build


@pytest.fixture
def packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As OpenAI publishes gpt-oss, in two files, with blocks and scales apart."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "packed"
    spec = SHAPES["gpt-oss"]
    assert spec.experts is not None
    experts = structs.replace(spec.experts, intermediate_size=64)
    model = build(structs.replace(spec, intermediate_size=64, experts=experts))
    model.to(torch.bfloat16).save_pretrained(folder)
    whole, noise = load_file(folder / "model.safetensors"), torch.Generator().manual_seed(0)
    (folder / "model.safetensors").unlink()
    files: list[dict[str, torch.Tensor]] = [{}, {}]
    for name, tensor in whole.items():
        if not name.endswith(("gate_up_proj", "down_proj")):
            files[0][name] = tensor
            continue
        count, columns, rows = tensor.shape
        groups = (count, rows, columns // 32)
        codes = torch.randint(0, 256, (*groups, 16), dtype=torch.uint8, generator=noise)
        scales = torch.randint(118, 123, groups, dtype=torch.uint8, generator=noise)
        files[0][name + "_blocks"], files[1][name + "_scales"] = codes, scales
    names = [f"model-{number}.safetensors" for number in range(2)]
    for name, content in zip(names, files, strict=True):
        save_file(content, folder / name, metadata={"format": "pt"})
    places = {key: name for name, content in zip(names, files, strict=True) for key in content}
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "mxfp4"}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_it_is_what_transformers_makes_of_it(packed: Path) -> None:
    """Once, and in more than one file where it is large."""
    assert mxfp4.is_packed(packed)
    screen = StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mxfp4, "SHARD_BYTES", 60_000)
        plain = mxfp4.unpacked_checkpoint(packed, screen)
    assert screen.getvalue() == f"unpacking {packed} from MXFP4 into 16 bit (once) to {plain}\n"
    assert not mxfp4.is_packed(plain)
    assert len([*plain.glob("*.safetensors")]) > 2
    assert mxfp4.unpacked_checkpoint(packed, screen) == plain
    assert screen.getvalue().count("unpacking") == 1

    expected = AutoModelForCausalLM.from_pretrained(
        packed, dtype=torch.bfloat16, quantization_config=Mxfp4Config(dequantize=True)
    ).state_dict()
    found = AutoModelForCausalLM.from_pretrained(plain, dtype=torch.bfloat16).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_disk_without_room_is_named_before_anything_is_written(
    packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launcher.storage.whole_folders.SPARE_BYTES", 2**60)
    with pytest.raises(InvalidRequestError, match="the converted model needs 1,073,741,824"):
        mxfp4.unpacked_checkpoint(packed, StringIO())


def test_blocks_without_scales(packed: Path) -> None:
    content = load_file(packed / "model-1.safetensors")
    content.popitem()
    save_file(content, packed / "model-1.safetensors")
    with pytest.raises(InvalidFileError, match="_blocks without its scales"):
        mxfp4.unpacked_checkpoint(packed, StringIO())
