"""Merged weights are peft's own, and a merged model says what its adapter said."""

import json
import math
import os
import shutil
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

pytest.importorskip("peft")
pytest.importorskip("bitsandbytes")

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from launcher.adapters.parted_base import for_whole_base, part_base
from launcher.merging.adapter_delta import Pair, with_delta
from launcher.merging.merge_check import agreement, encoded_prompts, logits
from launcher.merging.merge_run import merge_run, verdict
from launcher.merging.merger import merge, require_room
from launcher.run.run_directory import RunDirectory
from launcher.storage.json_files import write_json
from launcher.training.model_building import build_model, load_base, with_trained_adapter
from planner.base.errors import InvalidFileError, InvalidRequestError
from tests.launcher.plans import full, plan, plan_text

NF4 = {"method": "qlora", "quantization": {"quant_type": "nf4", "double_quant": True}}
INT8 = {"method": "qlora", "quantization": {"quant_type": "int8", "double_quant": False}}
CPU = torch.device("cpu")


def write_adapter(model: Any, folder: Path, **settings: Any) -> None:
    """An adapter that changes every linear layer a good deal."""
    torch.manual_seed(1)
    settings = {"target_modules": "all-linear", **settings}
    config = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, **settings)
    adapted = get_peft_model(model, config)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
        elif "magnitude" in name:
            parameter.data *= 1 + 0.2 * torch.rand_like(parameter)
    adapted.save_pretrained(folder)


@pytest.fixture(scope="module")
def adapter(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With its tokenizer, as a run leaves it."""
    folder = tmp_path_factory.mktemp("adapter") / "adapter"
    write_adapter(AutoModelForCausalLM.from_pretrained(tiny_checkpoint), folder)
    AutoTokenizer.from_pretrained(tiny_checkpoint).save_pretrained(folder)
    return folder


def merged_by_peft(base: Path, folder: Path) -> dict[str, torch.Tensor]:
    """In fp32, the folder of the base being what the adapter sits on."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    state: dict[str, torch.Tensor] = (
        PeftModel.from_pretrained(model, folder).merge_and_unload().state_dict()
    )
    return state


@pytest.mark.parametrize(
    "settings", [{}, {"use_rslora": True}, {"use_dora": True}], ids=["lora", "rslora", "dora"]
)
def test_every_matrix_is_what_peft_makes_of_it(
    settings: dict[str, Any], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    base = AutoModelForCausalLM.from_pretrained(tiny_checkpoint, dtype=torch.float32)
    write_adapter(base, tmp_path / "adapter", **settings)
    target = tmp_path / "merged"
    merge(
        plan(), base=tiny_checkpoint, adapter=tmp_path / "adapter", target=target, screen=StringIO()
    )
    wanted = merged_by_peft(tiny_checkpoint, tmp_path / "adapter")
    assert_rounded(AutoModelForCausalLM.from_pretrained(target).state_dict(), wanted)


def test_vera_is_merged_as_peft_merges_it(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Of matrices of several shapes, which share the largest ones."""
    made = plan(adapter__vera=True, adapter__rank=16)
    model = build_model(made, tiny_checkpoint, CPU)
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter)
    model.save_pretrained(tmp_path / "adapter")
    paths: Any = {"base": tiny_checkpoint, "adapter": tmp_path / "adapter"}
    merge(made, **paths, target=tmp_path / "merged", screen=StringIO())
    wanted = merged_by_peft(tiny_checkpoint, tmp_path / "adapter")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert_rounded(merged.state_dict(), wanted)
    loaded = with_trained_adapter(load_base(made, tiny_checkpoint, CPU), tmp_path / "adapter")
    tokens = torch.arange(1, 9)[None]
    apart = merged(tokens).logits.float() - loaded(tokens).logits.float()
    assert apart.norm() < 0.05 * merged(tokens).logits.float().norm()


@pytest.mark.parametrize("changes", [{"init": "pissa"}, {"init": "olora", "dora": True}])
def test_a_parted_base_is_merged_as_it_was_trained_on(
    changes: dict[str, Any], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """What was left of a matrix was rounded to 16 bit, and trained so."""
    made = plan(**{f"adapter__{key}": value for key, value in changes.items()})
    model = build_model(made, tiny_checkpoint, CPU)
    began = tmp_path / "began"
    assert made.adapter is not None
    options: Any = {"dtype": torch.float32, "device": CPU, "at_matrix": lambda: None}
    part_base(made.adapter, model, began, resumes=False, **options)
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * parameter.std() * torch.randn_like(parameter)
    model.save_pretrained(tmp_path / "adapter")
    for_whole_base(tmp_path / "adapter", began)
    paths: Any = {"base": tiny_checkpoint, "adapter": tmp_path / "adapter"}
    merge(made, **paths, target=tmp_path / "merged", screen=StringIO())
    wanted = model.float().merge_and_unload().state_dict()
    assert_rounded(AutoModelForCausalLM.from_pretrained(tmp_path / "merged").state_dict(), wanted)
    loaded = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert {len(each) for key, each in loaded.items() if "lora_A" in key} == {8}


def test_gpt2_stores_its_matrices_the_other_way_round(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=64, n_embd=32, n_layer=1, n_head=2, n_positions=32)
    base = GPT2LMHeadModel(config).to(torch.bfloat16)
    base.save_pretrained(tmp_path / "base")
    write_adapter(base.float(), tmp_path / "adapter", fan_in_fan_out=True)
    paths: Any = {name: tmp_path / name for name in ("base", "adapter")}
    merge(plan(), **paths, target=tmp_path / "merged", screen=StringIO())
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").state_dict()
    assert_rounded(found, merged_by_peft(tmp_path / "base", tmp_path / "adapter"))


def test_another_copy_beside_the_weights_is_left_where_it_is(
    tiny_checkpoint: Path, adapter: Path, tmp_path: Path
) -> None:
    """Mistral's and Llama's repositories have one, under names that transformers does not read."""
    base = tmp_path / "base"
    shutil.copytree(tiny_checkpoint, base)
    weights = load_file(base / "model.safetensors")
    copy = {f"layers.{name}": tensor for name, tensor in weights.items()}
    save_file(copy, base / "consolidated.safetensors")
    merge(plan(), base=base, adapter=adapter, target=tmp_path / "merged", screen=StringIO())
    assert load_file(tmp_path / "merged" / "model.safetensors").keys() == weights.keys()
    assert not (tmp_path / "merged" / "consolidated.safetensors").exists()
    assert not list((tmp_path / "merged").glob("model-*"))


def assert_rounded(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    """bf16 keeps 8 bits: half a unit in the last place is 2**-9 of a number."""
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].dtype == torch.bfloat16
        torch.testing.assert_close(found[name].float(), tensor, rtol=2**-8, atol=1e-6)


def test_experts_are_merged_as_they_were_packed(tiny_mixture: Path, tmp_path: Path) -> None:
    """All of a layer share constants, so that each alone would be unpacked to something else."""
    model = AutoModelForCausalLM.from_pretrained(tiny_mixture)
    write_adapter(model, tmp_path / "adapter", target_modules=["q_proj", "v_proj"])
    settings = plan(
        method="qlora", quantization={"quant_type": "nf4", "double_quant": True, "experts": True}
    )
    target = tmp_path / "merged"
    paths: dict[str, Any] = {"base": tiny_mixture, "adapter": tmp_path / "adapter"}
    merge(settings, target=target, screen=StringIO(), **paths)
    assert load_file(target / "model.safetensors").keys() == (
        load_file(tiny_mixture / "model.safetensors").keys()
    )
    merged = AutoModelForCausalLM.from_pretrained(target).get_submodule("model.layers.1.mlp")
    loaded = load_base(settings, tiny_mixture, CPU).get_submodule("model.layers.1.mlp")
    for name in ("gate_up_proj", "down_proj"):
        assert torch.equal(getattr(merged.experts, name), getattr(loaded.experts, name).unpacked())


@pytest.mark.parametrize("targets", [["down_proj"], ["gate_up_proj", "down_proj"]])
def test_adapted_experts_are_what_peft_makes_of_them(
    targets: list[str], tiny_mixture: Path, tmp_path: Path
) -> None:
    """peft's wrappers stand inside of each other, and files hold the experts one by one."""
    base = AutoModelForCausalLM.from_pretrained(tiny_mixture, dtype=torch.float32)
    parameters = [f"experts.{name}" for name in targets]
    modules = ["q_proj", "v_proj"]
    write_adapter(base, tmp_path / "adapter", target_modules=modules, target_parameters=parameters)
    settings = plan(
        adapter__rank=8, adapter__target_modules=modules, adapter__target_parameters=parameters
    )
    target = tmp_path / "merged"
    paths: dict[str, Any] = {"base": tiny_mixture, "adapter": tmp_path / "adapter"}
    merge(settings, target=target, screen=StringIO(), **paths)
    expected = merged_by_peft(tiny_mixture, tmp_path / "adapter")
    found = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32).state_dict()
    before = AutoModelForCausalLM.from_pretrained(tiny_mixture, dtype=torch.float32).state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=2**-8, atol=1e-6)
        adapted = any(part in name for part in (*modules, *parameters))
        assert torch.equal(tensor, before[name]) != adapted


def test_a_merged_model_has_the_positions_of_its_training(
    tiny_checkpoint: Path, adapter: Path, tmp_path: Path
) -> None:
    """By YaRN, whose angles differ from the base model's and whose constant is 0.1 ln 4 + 1."""
    scaling = {"rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 256}
    settings = plan(model__rope_scaling=scaling)
    base, target = tiny_checkpoint, tmp_path / "merged"
    merge(settings, base=base, adapter=adapter, target=target, screen=StringIO())
    trained = load_base(settings, base, CPU).model.rotary_emb
    merged = AutoModelForCausalLM.from_pretrained(target)
    assert merged.config.max_position_embeddings == 1024
    assert torch.equal(merged.model.rotary_emb.inv_freq, trained.inv_freq)
    assert merged.model.rotary_emb.attention_scaling == pytest.approx(0.1 * math.log(4) + 1)
    plain = load_base(plan(), base, CPU).model.rotary_emb
    assert not torch.equal(plain.inv_freq, trained.inv_freq)


@pytest.mark.parametrize("method", [NF4, INT8], ids=["nf4", "int8"])
def test_a_quantized_base_is_merged_as_it_was_trained_on(
    method: dict[str, Any], tiny_checkpoint: Path, adapter: Path, tmp_path: Path
) -> None:
    """Merged onto the weights that were packed, not unpacked, it would be another model."""
    settings = plan(
        **method,
        precision={"compute": "bf16", "frozen": "bf16", "trainable": "fp32", "master": None},
    )
    prompts = encoded_prompts(adapter)
    model = PeftModel.from_pretrained(load_base(settings, tiny_checkpoint, CPU), adapter)
    trained = logits(model, prompts)
    apart = {}
    for name, used in (("unpacked", settings), ("original", plan())):
        target = tmp_path / name
        merge(used, base=tiny_checkpoint, adapter=adapter, target=target, screen=StringIO())
        found = logits(AutoModelForCausalLM.from_pretrained(target), prompts)
        apart[name] = agreement(trained, found).relative_difference
    assert apart["unpacked"] < 0.03
    assert apart["original"] > (3 if method is NF4 else 1.1) * apart["unpacked"]


def test_shards_are_as_small_as_asked_and_whole_together(
    tiny_checkpoint: Path, adapter: Path, tmp_path: Path
) -> None:
    target = tmp_path / "merged"
    options: dict[str, Any] = {"base": tiny_checkpoint, "adapter": adapter, "screen": StringIO()}
    merge(plan(), target=target, shard_bytes=50_000, **options)
    shards = sorted(target.glob("model-*.safetensors"))
    assert len(shards) > 3
    index = json.loads((target / "model.safetensors.index.json").read_text(encoding="utf-8"))
    assert set(index["weight_map"].values()) == {shard.name for shard in shards}
    assert index["metadata"]["total_size"] == 2 * 107_072
    merge(plan(), target=tmp_path / "one", **options)
    found = AutoModelForCausalLM.from_pretrained(target).state_dict()
    for name, tensor in AutoModelForCausalLM.from_pretrained(tmp_path / "one").state_dict().items():
        assert torch.equal(found[name], tensor)


def run_of(
    folder: Path, base: Path, trained: Path | None, changes: dict[str, Any] | None = None
) -> RunDirectory:
    run = RunDirectory(folder)
    run.logs.mkdir(parents=True)
    changes = changes or {}
    run.plan.write_text(plan_text(**changes), encoding="utf-8")
    data = {"data_folder": "nowhere", "data_key": "none", "file_digests": [], "data": {}}
    write_json(run.inputs, {"checkpoint": str(base), "base_name": "tiny", **data})
    if trained is not None:
        run.result(plan(**changes)).symlink_to(trained)
    return run


def test_a_run_is_merged_and_compared(
    tiny_checkpoint: Path, adapter: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = run_of(tmp_path / "run", tiny_checkpoint, adapter)
    with patch.dict(os.environ):
        merge_run(run.path, None)
    lines = capfd.readouterr().out.splitlines()
    assert lines[0] == "merging the adapters of 14 matrices into bfloat16 weights"
    assert lines[2].startswith("verdict: good. The merged model answers as the adapter does")
    assert lines[5] == f"merged model: {run.path / 'merged'}"
    assert f"  vllm serve {run.path / 'merged'} --served-model-name tiny-run" in lines
    found = json.loads((run.path / "merge.json").read_text(encoding="utf-8"))
    assert found["relative_difference"] < 0.02
    assert found["same_first_choice"] > 0.95 * found["num_tokens"]

    model = AutoModelForCausalLM.from_pretrained(run.path / "merged")
    tokenizer = AutoTokenizer.from_pretrained(run.path / "merged")
    assert tokenizer.chat_template is not None
    assert (run.path / "merged" / "generation_config.json").is_file()
    inputs = tokenizer("Who?", return_tensors="pt")
    assert model.generate(**inputs, max_new_tokens=2, do_sample=False).shape[1] > 1
    with pytest.raises(InvalidRequestError, match="exists already"):
        merge_run(run.path, None)


def test_a_model_that_differs_by_more_than_rounding_is_told() -> None:
    assert verdict({"relative_difference": 0.3}).startswith("verdict: look at it.")


def no_run(folder: Path, _base: Path, _adapter: Path) -> Path:
    folder.mkdir()
    return folder


def full_run(folder: Path, base: Path, _adapter: Path) -> Path:
    return run_of(folder, base, None, full()).path


def unfinished_run(folder: Path, base: Path, _adapter: Path) -> Path:
    return run_of(folder, base, None).path


def baseless_run(folder: Path, base: Path, adapter: Path) -> Path:
    return run_of(folder, base / "gone", adapter).path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (no_run, "is not a run directory: it holds no plan.yaml"),
        (full_run, "trained all weights: .*/model is a whole model already"),
        (unfinished_run, "has no adapter: its training is not finished"),
        (baseless_run, "the base model is no longer at .*gone"),
    ],
)
def test_what_cannot_be_merged_is_refused_in_a_line(
    kind: Callable[[Path, Path, Path], Path],
    message: str,
    tiny_checkpoint: Path,
    adapter: Path,
    tmp_path: Path,
) -> None:
    with pytest.raises(InvalidRequestError, match=message) as caught:
        merge_run(kind(tmp_path / "run", tiny_checkpoint, adapter), None)
    assert "\n" not in str(caught.value)


def test_a_place_that_cannot_be_written(
    tiny_checkpoint: Path, adapter: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    paths: Any = {"base": tiny_checkpoint, "adapter": adapter, "target": tmp_path / "file" / "m"}
    with pytest.raises(InvalidRequestError, match=r"cannot write .*: Not a directory"):
        merge(plan(), **paths, screen=StringIO())
    with pytest.raises(InvalidRequestError, match=r"weights take 1,073,741,824\.00 GiB"):
        require_room(tmp_path, 2**60)


def test_an_adapter_of_another_base_leaves_nothing_behind(adapter: Path, tmp_path: Path) -> None:
    GPT2LMHeadModel(GPT2Config(vocab_size=8, n_embd=8, n_layer=1, n_head=1)).save_pretrained(
        tmp_path / "base"
    )
    paths: Any = {"base": tmp_path / "base", "adapter": adapter, "target": tmp_path / "merged"}
    with pytest.raises(InvalidRequestError, match="which the base model's files do not hold"):
        merge(plan(), **paths, screen=StringIO())
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_settings_that_are_not_merged_are_named(
    tiny_checkpoint: Path, adapter: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    write_json(folder / "adapter_config.json", {**config, "modules_to_save": ["lm_head"]})
    paths: Any = {"base": tiny_checkpoint, "adapter": folder, "target": tmp_path / "merged"}
    with pytest.raises(
        InvalidFileError, match="modules_to_save is set: an adapter with it cannot be merged"
    ):
        merge(plan(), **paths, screen=StringIO())


def test_a_worked_matrix() -> None:
    pair = Pair(scaling=2.0, down=torch.tensor([[1.0, 0.0]]), up=torch.tensor([[3.0], [0.0]]))
    weight = torch.tensor([[1.0, 8.0], [0.0, 2.0]])
    assert with_delta(weight, pair).tolist() == [[7.0, 8.0], [0.0, 2.0]]
    assert with_delta(weight.t(), pair, transposed=True).tolist() == [[7.0, 0.0], [8.0, 2.0]]
