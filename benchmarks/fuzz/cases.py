"""Kinds of mutated input: what is valid, what becomes of it, and the command that reads it."""

import json
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import yaml
from msgspec import convert

from benchmarks.fuzz.mutate import argument, changed, damaged
from planner.base.command_line import run_command
from planner.base.preset_files import ROOT, preset_names
from planner.base.units import GIB
from planner.models.config_json import config_from_spec
from planner.models.model_presets import load_model
from planner.plan.data_section import DataSection

Case = Callable[[], object]
MODELS = ("chatglm3-6b-base", "llama-3.2-1b", "qwen3-30b-a3b", "gemma-2-2b", "gpt2")
OPTIONS: dict[str, tuple[str, ...]] = {
    "--model": MODELS,
    "--gpus": ("24G", "2x24G", "rtx-4090", "8xh100", "cpu", "4xt4"),
    "--recipe": ("qlora", "lora", "full", "dora", "qlora-int8"),
    "--method": ("auto", "qlora", "lora", "full"),
    "--prefer": ("tiers", "quality", "speed", "memory"),
    "--sequence-length": ("1", "2", "512", "2048", "131072"),
    "--global-batch-size": ("1", "16", "1000", "16777216"),
    "--micro-batch-size": ("1", "2", "16", "16777216"),
    "--zero-stage": ("0", "1", "2", "3"),
    "--offload": ("none", "optimizer", "all"),
    "--lora-rank": ("1", "8", "256"),
    "--lora-targets": ("all-linear", "q_proj,v_proj", "query_key_value", "all-linear,experts"),
    "--precision": ("bf16", "fp16", "fp32"),
    "--loss": ("fused", "standard"),
    "--attention": ("sdpa", "eager", "flash_attention_2"),
    "--optimizer": ("adamw_8bit", "adafactor", "sgd"),
    "--memory-limit": ("0G", "1G", "22.5GiB", "1000G"),
    "--nodes": ("1", "2", "64"),
    "--network": ("25gbe", "100gbe"),
    "--price-per-gpu-hour": ("0", "2.5"),
    "--checkpoint-every": ("1", "2", "7"),
    "--list": ("models", "gpus", "recipes"),
    "-o": ("-", "plan.yaml", "."),
    "--html": ("page.html",),
}
FLAGS = ("--json", "--explain", "--packing", "--no-activation-checkpointing", "--force")
DATA_SUFFIXES = (".jsonl", ".json", ".csv", ".parquet", ".arrow", ".xlsx", ".jsonl.gz", "")
RECORDS: tuple[tuple[dict[str, Any], ...], ...] = (
    ({"instruction": "Who?", "input": "", "output": "Ada"},),
    ({"text": "日本語\ttext"}, {"text": "b" * 300}),
    ({"prompt": "a", "completion": "b"},),
    ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},),
    ({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},),
    ({"conversation": [{"system": "s", "input": "a", "output": "b"}]},),
)
"""Records of every format of launcher/data/records.py but guanaco, which is never recognised."""
XTUNER = Path(__file__).with_name("xtuner_config.txt")


def command_lines(rng: random.Random, _folder: Path) -> Case:
    """Options of ``plan``, a third of them with values that hardly anybody writes."""
    words = ["--model", rng.choice(MODELS)]
    for option in rng.sample(list(OPTIONS), rng.randint(1, 6)):
        words += [option, argument(rng) if rng.random() < 0.1 else rng.choice(OPTIONS[option])]
    words += rng.sample(FLAGS, rng.randint(0, 2))
    if rng.random() < 0.05:
        words.insert(rng.randrange(len(words)), argument(rng))
    return lambda: _plan(words)


def configs(rng: random.Random, folder: Path) -> Case:
    """A model's ``config.json``."""
    content = config_from_spec(load_model(rng.choice(preset_names("models"))).spec)
    model = folder / "model"
    model.mkdir()
    (model / "config.json").write_bytes(_mutated(content, rng, json_text))
    return lambda: _plan(["--model", "model", "--gpus", "24G", "-o", "-"])


def plans(rng: random.Random, folder: Path) -> Case:
    """``plan.yaml`` as ``launch`` reads it."""
    (folder / "plan.yaml").write_bytes(_mutated(rng.choice(_planned()), rng, yaml_text))
    return lambda: _launch(["plan.yaml", "--dry-run", "--output", "run"])


def recipes(rng: random.Random, folder: Path) -> Case:
    """A recipe in YAML."""
    path = rng.choice(sorted((ROOT / "recipes").glob("*.yaml")))
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    (folder / "recipe.yaml").write_bytes(_mutated(content, rng, yaml_text))
    options = ("--recipe", "recipe.yaml", "--model", "llama-3.2-1b", "--gpus", "24G", "-o", "-")
    return lambda: _plan(options)


def machines(rng: random.Random, folder: Path) -> Case:
    """A saved machine."""
    (folder / "machine.json").write_bytes(_mutated(_machine(), rng, json_text))
    return lambda: _plan(["--gpus", "machine.json", "--model", "llama-3.2-1b", "-o", "-"])


def xtuner_files(rng: random.Random, folder: Path) -> Case:
    """An XTuner configuration."""
    (folder / "config.py").write_bytes(damaged(XTUNER.read_bytes(), rng))
    return lambda: _plan(["--recipe", "config.py", "--gpus", "24G", "-o", "-"])


def data_files(rng: random.Random, folder: Path) -> Case:
    """A data file, as a run reads it: every format of records in every kind of file."""
    import launcher.data.samples  # noqa: F401 (once, before the first case is forked)

    suffix = rng.choice(DATA_SUFFIXES)
    records = [dict(each) for each in rng.choice(RECORDS) for _ in range(10)]
    if suffix in (".json", ".jsonl") and rng.random() < 0.5:
        records = changed(records, rng)
    content = _data_file(records, suffix, folder)
    path = folder / f"data{suffix}"
    path.write_bytes(damaged(content, rng) if rng.random() < 0.7 else content)
    return partial(_read_data, path.name, rng.choice(("stop", "skip")))


KINDS: dict[str, Callable[[random.Random, Path], Case]] = {
    "command lines": command_lines,
    "configs": configs,
    "plans": plans,
    "recipes": recipes,
    "machines": machines,
    "XTuner files": xtuner_files,
    "data files": data_files,
}


def _data_file(records: Any, suffix: str, folder: Path) -> bytes:
    """Return the bytes of a file of this kind; of one that is not read, those of JSON Lines."""
    import pyarrow as pa
    import pyarrow.parquet

    if suffix == ".json":
        return json_text(records)
    if suffix == ".csv":
        rows = "\n".join(",".join(json.dumps(str(v)) for v in each.values()) for each in records)
        return f"{','.join(records[0])}\n{rows}\n".encode()
    if suffix not in (".parquet", ".arrow"):
        lines = records if isinstance(records, list) else [records]
        return b"".join(json_text(each) + b"\n" for each in lines)
    table, whole = pa.Table.from_pylist(records), folder / "whole"
    if suffix == ".parquet":
        pyarrow.parquet.write_table(table, whole)
    else:
        with pa.ipc.new_stream(str(whole), table.schema) as stream:
            stream.write_table(table)
    return whole.read_bytes()


def json_text(content: Any) -> bytes:
    """Return JSON as Python writes it: NaN, Infinity and halves of surrogate pairs among it."""
    return json.dumps(content).encode()


def yaml_text(content: Any) -> bytes:
    return yaml.dump(content, sort_keys=False).encode("utf-8", "surrogatepass")


def _mutated(content: Any, rng: random.Random, write: Callable[[Any], bytes]) -> bytes:
    text = write(changed(content, rng)) if rng.random() < 0.7 else write(content)
    return damaged(text, rng) if rng.random() < 0.4 else text


@cache
def _planned() -> tuple[Any, ...]:
    """Plans of three methods, made here by the command itself."""
    return tuple(_made_plans())


def _made_plans() -> Iterator[Any]:
    from planner.decision.assemble import plan_of
    from planner.decision.choose import decide
    from planner.decision.request import Request
    from planner.hardware.cards import load_gpu, named_cluster
    from planner.plan.plan_file import render

    for card, count in (("rtx-4090", 1), ("rtx-4090", 2), ("h100-sxm-80gb", 8)):
        cluster = named_cluster(load_gpu(card), count)
        decision = decide(Request(model=load_model("llama-3.2-1b"), cluster=cluster))
        yield yaml.safe_load(render(plan_of(decision), command="plan", file=None))


def _machine() -> Any:
    """Two GPUs, one of them in use, joined by NVLink."""
    gpu = {
        "name": "NVIDIA GeForce RTX 3090",
        "card_name": "NVIDIA GeForce RTX 3090",
        "total_bytes": 24 * GIB,
        "free_bytes": 23 * GIB,
        "compute_capability": "8.6",
        "pcie": {"generation": 4, "lanes": 16, "card_generation": 4},
        "power_limit_watts": 350,
        "nvlinks": 4,
        "nvlink_bytes_per_s": 14_000_000_000,
    }
    holder = {"name": "python", "used_bytes": GIB}
    return {
        "schema_version": 1,
        "nvml": {
            "devices": [
                {"index": 0, "uuid": "GPU-0", **gpu},
                {"index": 1, "uuid": "GPU-1", **gpu, "holders": [holder]},
            ],
            "pairs": [{"one": 0, "other": 1, "nvlinks": 4, "p2p": True}],
            "driver_version": "580.65.06",
            "cuda_version": "13.0",
        },
        "host": {
            "cpu_name": "A CPU",
            "cores": 16,
            "total_bytes": 64 * GIB,
            "available_bytes": 60 * GIB,
        },
        "environment": {"CUDA_VISIBLE_DEVICES": "0,1"},
    }


def _read_data(name: str, errors: str) -> None:
    from launcher.data.samples import SourceReader
    from launcher.data.sources import find_sources

    def read() -> None:
        """Read all samples."""
        data = convert({"source": name, "errors": errors}, DataSection)
        for source in find_sources(data):
            reader = SourceReader(source, loss_on=data.loss_on, errors=data.errors)
            print(sum(1 for _ in reader.samples()))

    sys.argv = ["read"]
    raise SystemExit(run_command(read))


def _plan(words: Sequence[str]) -> None:
    from planner.cli.plan_command import main

    sys.argv = ["plan", *words]
    raise SystemExit(main())


def _launch(words: Sequence[str]) -> None:
    from launcher.cli.launch_command import main

    sys.argv = ["launch", *words]
    raise SystemExit(main())
