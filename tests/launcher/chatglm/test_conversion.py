"""ChatGLM checkpoints become GLM's with the same logits, and themselves again bit for bit."""

import hashlib
import json
import shutil
import subprocess
import sys
from io import StringIO
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from launcher.chatglm import conversion, stored_tensors, writing
from launcher.chatglm.command import WeightLayout, convert, native_checkpoint
from planner.base.errors import InvalidFileError, InvalidRequestError
from tests.launcher.chatglm.original import (
    LAYERS,
    Tensors,
    random_tensors,
    reference_logits,
    write_original,
)
from tests.launcher.launching import environment

VOCAB = 300
IDS = torch.randint(0, VOCAB, (48,), generator=torch.Generator().manual_seed(1)).tolist()
FUSED_BIAS = "transformer.encoder.layers.1.self_attention.query_key_value.bias"


@pytest.fixture(scope="module")
def weights() -> Tensors:
    return random_tensors(VOCAB)


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "SHARD_BYTES", 60_000)


def converted(source: Path, target: Path, to: WeightLayout = "native") -> str:
    screen = StringIO()
    convert(source, target, to, screen)
    return screen.getvalue()


def native_logits(folder: Path) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        logits: torch.Tensor = model(torch.tensor([IDS])).logits[0]
    return logits


def all_tensors(folder: Path) -> Tensors:
    files = sorted(folder.glob("*.safetensors"))
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def same_bits(one: Tensors, other: Tensors) -> bool:
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype
        and torch.equal(one[name].view(torch.uint8), other[name].view(torch.uint8))
        for name in one
    )


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("kind", ["safetensors", "bin"])
@pytest.mark.parametrize("num_shards", [1, 3])
@pytest.mark.parametrize("ratio", [None, 50])
def test_logits_and_the_way_back(
    kind: str, num_shards: int, ratio: int | None, weights: Tensors, tmp_path: Path
) -> None:
    """8k and 32k; the 32k version multiplies the rotary base."""
    changes: dict[str, Any] = {} if ratio is None else {"rope_ratio": ratio, "seq_length": 32_768}
    source, native, back = (tmp_path / name for name in ("source", "native", "back"))
    write_original(source, weights, kind=kind, num_shards=num_shards, **changes)

    assert "converting: shard 2 of " in converted(source, native)
    expected = reference_logits(weights, IDS, base=10_000.0 * (ratio or 1))
    assert (native_logits(native) - expected).abs().max() <= 1e-5
    config = json.loads((native / "config.json").read_text(encoding="utf-8"))
    assert config["max_position_embeddings"] == (8192 if ratio is None else 32_768)

    converted(native, back, "chatglm")
    assert same_bits(all_tensors(back), weights)
    assert json.loads((back / "config.json").read_text(encoding="utf-8")) == json.loads(
        (source / "config.json").read_text(encoding="utf-8")
    )
    assert (back / "modeling_chatglm.py").is_file()


def test_chatglm2_32k_divides_positions(weights: Tensors, tmp_path: Path) -> None:
    """Told by the code that comes with it, which is read as text."""
    write_original(tmp_path / "source", weights, rope_ratio=4)
    code = "seq_idx = torch.arange(seq_len, dtype=dtype) / self.rope_ratio"
    (tmp_path / "source" / "modeling_chatglm.py").write_text(code, encoding="utf-8")
    converted(tmp_path / "source", tmp_path / "native")
    expected = reference_logits(weights, IDS, divisor=4.0)
    assert (native_logits(tmp_path / "native") - expected).abs().max() <= 1e-5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_bit_of_16_bit_weights(dtype: torch.dtype, tmp_path: Path) -> None:
    weights = random_tensors(VOCAB, dtype)
    weights[FUSED_BIAS][3] = float("nan")
    write_original(tmp_path / "source", weights, kind="bin", num_shards=2)
    converted(tmp_path / "source", tmp_path / "native")
    converted(tmp_path / "native", tmp_path / "back", "chatglm")
    assert same_bits(all_tensors(tmp_path / "back"), weights)


def test_what_training_saves_goes_back(weights: Tensors, tmp_path: Path) -> None:
    """``save_pretrained`` keeps what the way back needs, and so does a run's folder."""
    write_original(tmp_path / "source", weights)
    converted(tmp_path / "source", tmp_path / "native")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "native", dtype=torch.float32)
    with torch.no_grad():
        model.model.layers[1].self_attn.k_proj.weight += 1
    run = tmp_path / "run"
    model.save_pretrained(run / "model")
    inputs = json.dumps({"checkpoint": str(tmp_path / "native")})
    (run / "inputs.json").write_text(inputs, encoding="utf-8")

    converted(run, tmp_path / "back", "chatglm")
    back = all_tensors(tmp_path / "back")
    name = "transformer.encoder.layers.1.self_attention.query_key_value.weight"
    change = back.pop(name) - weights[name]
    torch.testing.assert_close(change[64:96], torch.ones(32, 64))
    assert not change[:64].any()
    assert not change[96:].any()
    assert same_bits(back, {each: weights[each] for each in weights if each != name})
    assert (tmp_path / "back" / "modeling_chatglm.py").is_file()
    config = json.loads((tmp_path / "back" / "config.json").read_text(encoding="utf-8"))
    assert config["torch_dtype"] == "float32"


@pytest.mark.usefixtures("small_shards")
def test_it_goes_on_where_it_stopped(
    weights: Tensors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, native = tmp_path / "source", tmp_path / "native"
    write_original(source, weights)
    write_shard = writing._write_shard

    def stop_at_the_third(target: Path, shard: writing.Shard) -> dict[str, Any]:
        if target.name.startswith("model-00003"):
            raise KeyboardInterrupt
        return write_shard(target, shard)

    with monkeypatch.context() as patched:
        patched.setattr(writing, "_write_shard", stop_at_the_third)
        with pytest.raises(KeyboardInterrupt):
            converted(source, native)
    assert not native.exists()
    partial = tmp_path / ".native.partial"
    first, second = sorted(partial.glob("*.safetensors"))
    when = first.stat().st_mtime_ns
    second.write_bytes(second.read_bytes()[:-1] + b"\xff")
    (partial / f".{second.name}.0123456789abcdef.partial").touch()

    said = converted(source, native)
    assert "shard 1 of" not in said
    assert said.splitlines()[1].startswith("converting: shard 2 of")
    assert (native / first.name).stat().st_mtime_ns == when
    assert not partial.exists()
    assert not list(native.glob(".*"))
    manifest = json.loads((native / writing.MANIFEST).read_text(encoding="utf-8"))
    files = {file.name: file for file in native.glob("*.safetensors")}
    assert manifest["shards"].keys() == files.keys()
    for name, entry in manifest["shards"].items():
        assert hashlib.sha256(files[name].read_bytes()).hexdigest() == entry["sha256"]


def test_a_conversion_reads_the_tables_once(
    weights: Tensors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of pickled shards that is to unpickle each."""
    read = Mock(wraps=stored_tensors.read_tables)
    monkeypatch.setattr(conversion, "read_tables", read)
    write_original(tmp_path / "source", weights)
    converted(tmp_path / "source", tmp_path / "native")
    converted(tmp_path / "native", tmp_path / "back", "chatglm")
    assert read.call_count == 2


@pytest.mark.usefixtures("small_shards")
def test_shards_of_another_source_are_not_kept(weights: Tensors, tmp_path: Path) -> None:
    other = {name: tensor + 1 for name, tensor in weights.items()}
    write_original(tmp_path / "one", weights)
    write_original(tmp_path / "other", other)
    converted(tmp_path / "other", tmp_path / "native")
    (tmp_path / "native").rename(tmp_path / ".native.partial")
    converted(tmp_path / "one", tmp_path / "native")
    converted(tmp_path / "native", tmp_path / "back", "chatglm")
    assert same_bits(all_tensors(tmp_path / "back"), weights)


def test_the_cache_is_keyed_by_content(
    weights: Tensors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source = tmp_path / "source"
    write_original(source, weights)
    screen = StringIO()
    native = native_checkpoint(source, screen)
    assert f"converting {source} for transformers' GLM (once) to {native}" in screen.getvalue()
    source.rename(tmp_path / "moved")
    again = StringIO()
    assert native_checkpoint(tmp_path / "moved", again) == native
    assert again.getvalue() == ""
    (tmp_path / "moved" / "modeling_chatglm.py").write_text("other", encoding="utf-8")
    assert native_checkpoint(tmp_path / "moved", screen) != native
    write_original(tmp_path / "tuned", {name: tensor + 1 for name, tensor in weights.items()})
    assert native_checkpoint(tmp_path / "tuned", screen) != native
    (native_checkpoint(tmp_path / "moved", screen) / "model.safetensors").write_bytes(b"")
    with pytest.raises(InvalidRequestError, match=r"is damaged\. Delete it and launch again"):
        native_checkpoint(tmp_path / "moved", screen)


MEASURED = """
import re, sys
from pathlib import Path
from launcher.chatglm.command import convert
convert(Path(sys.argv[1]), Path(sys.argv[2]), "native", sys.stderr)
print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""
"""Prints its largest resident size. (What getrusage says begins with the parent's.)"""


def test_memory_does_not_grow_with_the_checkpoint(weights: Tensors, tmp_path: Path) -> None:
    """A tensor of 64 MiB passes through in pieces of 16."""
    vocabulary = 2**18
    names = ("transformer.embedding.word_embeddings.weight", "transformer.output_layer.weight")
    large = weights | {name: torch.zeros(vocabulary, 64) for name in names}
    write_original(tmp_path / "source", large)
    command = [sys.executable, "-c", MEASURED, str(tmp_path / "source"), str(tmp_path / "native")]
    done = subprocess.run(
        command, env=environment(), capture_output=True, text=True, check=True, cwd=tmp_path
    )
    print(done.stdout)
    assert int(done.stdout) * 1024 < 85 * 2**20
    assert (tmp_path / "native" / "model.safetensors").stat().st_size > 128 * 2**20
    shutil.rmtree(tmp_path / "source")
    shutil.rmtree(tmp_path / "native")


def test_layers_are_those_of_the_checkpoint(weights: Tensors, tmp_path: Path) -> None:
    write_original(tmp_path / "source", weights)
    converted(tmp_path / "source", tmp_path / "native")
    names = all_tensors(tmp_path / "native")
    assert len(names) == 3 + LAYERS * 11
    assert not any("inv_freq" in name for name in names)
    save_file({}, tmp_path / "native" / "model.safetensors")
    with pytest.raises(InvalidFileError, match=r"lacks model.embed_tokens.weight and 24 more"):
        converted(tmp_path / "native", tmp_path / "back", "chatglm")
