"""A base model's files with an adapter merged in, matrix by matrix.

Weights are read and written shard by shard, so memory holds one shard and one matrix, however large
the model is. The folder appears when it is whole.
"""

import shutil
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any, TextIO

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

from launcher.compat.transformers import StoredStacks, quantized_linears
from launcher.merging.adapter_delta import (
    Adapter,
    Pair,
    as_trained_on,
    less_part,
    parted,
    read_adapter,
    with_delta,
    with_stack_delta,
)
from launcher.storage import adapter_files
from launcher.storage.json_files import read_json, write_json
from launcher.storage.weight_files import (
    safetensors_files,
    shard_names,
    whole_weights,
    write_index,
)
from launcher.training.model_building import DTYPES, packs_experts
from planner.base.errors import InvalidRequestError
from planner.base.phrases import Phrase
from planner.base.printable import print_text
from planner.base.units import format_gib
from planner.plan.rope_scaling import scaled_config
from planner.plan.schema import Plan

SHARD_BYTES = 2 * 10**9
BYTES_PER_NUMBER = 2
TENSORS_OF_EXPERTS = 2
"""Tensors that hold a layer's experts: their first matrices, and their last ones."""
NOT_OF_A_MODEL = (adapter_files.CONFIG, adapter_files.WEIGHTS, "README.md")
BASE_FILES = ("generation_config.json",)


def merge(
    plan: Plan,
    *,
    base: Path,
    adapter: Path,
    target: Path,
    screen: TextIO,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write the merged model's folder, whole or not at all.

    Raises ``InvalidRequestError`` if the base's files are quantized, or the folder cannot be
    written.
    """
    config = read_json(base / "config.json")
    if "quantization_config" in config:
        raise InvalidRequestError(
            Phrase(
                "the weights in {base} are quantized: only 16-bit and fp32 ones take an adapter.",
                base=base,
            )
        )
    config = scaled_config(config, plan.model.rope_scaling, plan.model.source)
    merger = Merger(plan, base, read_adapter(adapter))
    dtype = torch.float16 if plan.precision.compute == "fp16" else torch.bfloat16
    print_text(merger.describe(dtype), file=screen)
    with whole_weights(
        target, remedy=Phrase("Choose another folder with --output DIR.")
    ) as partial:
        require_room(partial, sum(merger.sizes().values()))
        write_shards(merger, partial, dtype, shard_bytes)
        write_other_files(config, dtype, base=base, adapter=adapter, target=partial)


def require_room(folder: Path, needed_bytes: int) -> None:
    """Raise ``InvalidRequestError`` if the folder's disk has less free space."""
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes:
        raise InvalidRequestError(
            Phrase(
                "the merged weights take {gib} GiB, and {free} GiB are free there. Choose a "
                "folder on another disk with --output DIR.",
                gib=format_gib(needed_bytes),
                free=format_gib(free_bytes),
            )
        )


class Merger:
    """The tensors of a merged model, read and computed one at a time.

    Raises ``InvalidRequestError`` if the adapter changes a matrix that the base does not have.
    """

    def __init__(self, plan: Plan, base: Path, adapter: Adapter) -> None:
        self._plan = plan
        self._transposed = adapter.transposed
        self._places = {key: file for file in safetensors_files(base) for key in keys(file)}
        targets = () if plan.adapter is None else plan.adapter.target_parameters
        model = None if plan.quantization is None and not targets else empty_model(base)
        packed = () if plan.quantization is None else (name for name, _ in quantized_linears(model))
        self._packed = {key for module in packed if (key := self._find(module)) is not None}
        self._stacks = None
        if packs_experts(plan) or targets:
            self._stacks = StoredStacks(model, self._places, of_any_size=bool(targets))
        self._pairs, self._stack_pairs = dict[str, Pair](), dict[str, Pair]()
        for module, pair in adapter.pairs.items():
            if self._stacks is not None and self._stacks.holds(module):
                self._stack_pairs[self._stacks.nested(module, targets)] = pair
            else:
                self._pairs[self._key(module)] = pair
        self._began = dict[str, Pair]()
        if plan.adapter is not None and plan.adapter.changes_base:
            for key, pair in self._pairs.items():
                self._pairs[key], self._began[key] = parted(pair)
        self._stack_of = {
            key: name
            for name, keys in (self._stacks.keys if self._stacks is not None else {}).items()
            for key in keys
            if packs_experts(plan) or name in self._stack_pairs
        }
        self._whole: dict[str, dict[str, torch.Tensor]] = {}
        on_gpu = plan.hardware.device == "cuda" and torch.cuda.is_available()
        self._device = torch.device("cuda" if on_gpu else "cpu")

    def describe(self, dtype: torch.dtype) -> str:
        """Return the line that is printed before merging into weights of that dtype."""
        name = str(dtype).removeprefix("torch.")
        line = Phrase(
            "merging the adapters of {number} {number[matrix|matrices]} into {name} weights",
            number=len(self._pairs) + len(self._stack_pairs),
            name=name,
        )
        if self._plan.quantization is None:
            return line
        kind = self._plan.quantization.quant_type
        return Phrase(
            "{line}; the base is dequantized {kind}, on which the adapter was trained",
            line=line,
            kind=kind,
        )

    def _key(self, module: str) -> str:
        key = self._find(module)
        if key is None:
            raise InvalidRequestError(
                Phrase(
                    "the adapter changes {module}, which the base model's files do not hold: is "
                    "this the model it was trained on?",
                    module=module,
                )
            )
        return key

    def _find(self, module: str) -> str | None:
        """Return the key of a module's matrix; None if the files do not hold it.

        A checkpoint of the inner model alone lacks the first part of the name.
        """
        names = (f"{name}.weight" for name in (module, module.partition(".")[2]))
        return next((name for name in names if name in self._places), None)

    def sizes(self) -> dict[str, int]:
        """Return the bytes of every merged tensor, by its key."""
        return dict(self._sizes())

    def _sizes(self) -> Iterator[tuple[str, int]]:
        for key, path in self._places.items():
            with safe_open(path, framework="pt") as file:
                yield key, BYTES_PER_NUMBER * prod(file.get_slice(key).get_shape())

    def tensor(self, key: str, dtype: torch.dtype) -> torch.Tensor:
        """Return a merged tensor on the CPU; one that is not floating point is left as it is."""
        if key in self._stack_of:
            return self._expert(key).to(dtype).contiguous()
        stored = self._stored(key)
        if not stored.is_floating_point():
            return stored
        weight = stored.to(self._device)
        transposed = self._transposed
        if self._plan.quantization is not None and key in self._packed:
            frozen = weight.to(DTYPES[self._plan.precision.frozen])
            weight = as_trained_on(frozen, self._plan.quantization, transposed=transposed)
        if key in self._began:
            weight = weight.to(DTYPES[self._plan.precision.frozen])
            weight = less_part(weight, self._began[key], transposed=transposed)
        if key in self._pairs:
            weight = with_delta(weight, self._pairs[key], transposed=transposed)
        return weight.to(dtype).cpu().contiguous()

    def _stored(self, key: str) -> torch.Tensor:
        with safe_open(self._places[key], framework="pt") as file:
            tensor: torch.Tensor = file.get_tensor(key)
        return tensor

    def _expert(self, key: str) -> torch.Tensor:
        """Return a matrix of experts that are packed or adapted all together, as it is then, on the
        CPU.

        Those of two tensors are kept, as files name the matrices of both expert by expert.
        """
        name = self._stack_of[key]
        if name not in self._whole:
            if len(self._whole) == TENSORS_OF_EXPERTS:
                del self._whole[next(iter(self._whole))]
            self._whole[name] = self._merged_stack(name)
        return self._whole[name][key]

    def _merged_stack(self, name: str) -> dict[str, torch.Tensor]:
        stacks, quantization = self._stacks, self._plan.quantization
        assert stacks is not None
        packs = quantization is not None and quantization.experts
        frozen = DTYPES[self._plan.precision.frozen] if packs else None
        parts = {key: self._stored(key).to(self._device, dtype=frozen) for key in stacks.keys[name]}
        whole = stacks.joined(name, parts)
        del parts
        if quantization is not None and packs:
            whole = as_trained_on(whole, quantization)
        if name in self._stack_pairs:
            transposed = stacks.is_transposed(name)
            whole = with_stack_delta(whole, self._stack_pairs[name], transposed=transposed)
        return stacks.parted(name, whole.cpu())


def empty_model(base: Path) -> Any:
    """Return the model of a folder without memory for its weights."""
    with torch.device("meta"):
        config = AutoConfig.from_pretrained(base, trust_remote_code=False)
        return AutoModelForCausalLM.from_config(config, trust_remote_code=False)


def keys(path: Path) -> list[str]:
    """Return the keys of a safetensors file."""
    with safe_open(path, framework="pt") as file:
        return list(file.keys())


def shard_keys(sizes: Mapping[str, int], shard_bytes: int) -> list[list[str]]:
    """Return the keys by shard: tensors in their order, as many as fit; a larger one alone.

    >>> shard_keys({"a": 3, "b": 3, "c": 9, "d": 1}, 6)
    [['a', 'b'], ['c'], ['d']]
    """
    shards: list[list[str]] = [[]]
    room = shard_bytes
    for key, size in sizes.items():
        if shards[-1] and size > room:
            shards.append([])
            room = shard_bytes
        shards[-1].append(key)
        room -= size
    return shards


def write_shards(merger: Merger, folder: Path, dtype: torch.dtype, shard_bytes: int) -> None:
    """Write the merged tensors as shards of at most that size, and their index."""
    sizes = merger.sizes()
    shards = shard_keys(sizes, shard_bytes)
    names = shard_names(len(shards))
    for name, wanted in zip(names, shards, strict=True):
        tensors = {key: merger.tensor(key, dtype) for key in wanted}
        save_file(tensors, folder / name, metadata={"format": "pt"})
    places = {key: name for name, wanted in zip(names, shards, strict=True) for key in wanted}
    write_index(folder, places, sum(sizes.values()))


def write_other_files(
    config: dict[str, Any], dtype: torch.dtype, *, base: Path, adapter: Path, target: Path
) -> None:
    """Write the base's configuration, and the tokenizer and chat template of the training."""
    kept = {key: value for key, value in config.items() if key != "torch_dtype"}
    write_json(target / "config.json", {**kept, "dtype": str(dtype).removeprefix("torch.")})
    for name in BASE_FILES:
        if (base / name).is_file():
            shutil.copy(base / name, target / name)
    for path in sorted(adapter.iterdir()):
        if path.is_file() and path.name not in NOT_OF_A_MODEL:
            shutil.copy(path, target / path.name)
