"""The conversion of LoRA adapters, between ChatGLM's ``query_key_value`` and GLM's three modules.

A LoRA adds ``B A`` to a matrix. For GLM the rows of B are divided among the three modules, which
all keep the same A. For ChatGLM the three become one matrix of three times the rank, exactly:

    A = [A_q; A_k; A_v]      B = diag(B_q, B_k, B_v)

The other modules differ only in their names.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from launcher.chatglm.layout import FUSED, MODULES, NATIVE_LAYER, ORIGINAL_LAYER
from launcher.storage.adapter_files import CONFIG, WEIGHTS
from launcher.storage.json_files import read_json, write_json
from launcher.storage.weight_files import whole_weights
from planner.base.errors import InvalidFileError
from planner.base.phrases import Phrase

_PREFIX = "base_model.model."
_LORA = r"\.lora_(?P<matrix>[AB])\.weight"

Tensors = dict[str, Any]
Layers = dict[int, dict[str, dict[str, Any]]]
"""Matrices by layer, module, and A or B."""


def read_adapter(folder: Path) -> tuple[dict[str, Any], Tensors]:
    """Return the configuration and the weights of an adapter; raise ``InvalidFileError``."""
    from safetensors.torch import load_file

    if not (folder / WEIGHTS).is_file():
        raise InvalidFileError(
            folder, None, Phrase("has no {weights}. Pickled weights are not read", weights=WEIGHTS)
        )
    return read_json(folder / CONFIG), load_file(folder / WEIGHTS)


def write_adapter(folder: Path, config: Mapping[str, Any], weights: Tensors) -> None:
    """Write an adapter's folder, whole."""
    from safetensors.torch import save_file

    tensors = {name: tensor.contiguous() for name, tensor in weights.items()}
    with whole_weights(folder, remedy=Phrase("Make room, or choose another folder.")) as partial:
        save_file(tensors, partial / WEIGHTS, metadata={"format": "pt"})
        write_json(partial / CONFIG, config)


def is_original(weights: Tensors) -> bool:
    """Return whether an adapter is in ChatGLM's own layout."""
    return any(name.startswith(f"{_PREFIX}transformer.encoder.") for name in weights)


def to_native(
    config: Mapping[str, Any], weights: Tensors, path: Path
) -> tuple[dict[str, Any], Tensors]:
    """Return an adapter of ChatGLM's layout as one of GLM's: its configuration and weights.

    Raise ``InvalidFileError``, with ``path`` in its message, if it cannot be converted.
    """
    _refuse_more(config, path)
    converted: Tensors = {}
    for layer, modules in _layers(weights, ORIGINAL_LAYER, MODULES, path).items():
        for module, matrices in modules.items():
            counts = _row_counts(module, matrices, path)
            shares = matrices["B"].split(counts)
            for part, share in zip(MODULES[module], shares, strict=True):
                name = f"{_PREFIX}{NATIVE_LAYER.format(layer)}{part}"
                converted[f"{name}.lora_A.weight"] = matrices["A"].clone()
                converted[f"{name}.lora_B.weight"] = share
    return {**config, "target_modules": _targets(converted)}, converted


def _row_counts(module: str, matrices: Mapping[str, Any], path: Path) -> list[int]:
    """Return the number of rows of every native part of a module.

    Queries are as wide as the model, and keys and values share the remaining rows.
    read: SelfAttention of modeling_chatglm.py, whose projection size is kv_channels times heads,
    which is the hidden size in every published checkpoint.
    """
    rows, hidden = matrices["B"].shape[0], matrices["A"].shape[1]
    if module != FUSED:
        return [rows]
    if rows <= hidden or (rows - hidden) % 2:
        raise InvalidFileError(
            path,
            None,
            Phrase(
                "{module} has {rows} {rows[row|rows]} on {hidden} {hidden[column|columns]}",
                module=module,
                rows=rows,
                hidden=hidden,
            ),
        )
    return [hidden, (rows - hidden) // 2, (rows - hidden) // 2]


def to_original(
    config: Mapping[str, Any], weights: Tensors, path: Path
) -> tuple[dict[str, Any], Tensors]:
    """Return an adapter of GLM's layout as one of ChatGLM's: its configuration and weights.

    Raise ``InvalidFileError``, with ``path`` in its message, if it cannot be converted.
    """
    _refuse_more(config, path)
    parts = [part for names in MODULES.values() for part in names]
    converted: Tensors = {}
    times = 1
    for layer, adapted in _layers(weights, NATIVE_LAYER, parts, path).items():
        for module, names in MODULES.items():
            present = {name: adapted[name] for name in names if name in adapted}
            if not present:
                continue
            name = f"{_PREFIX}{ORIGINAL_LAYER.format(layer)}{module}"
            matrices = present[names[0]] if len(names) == 1 else _fused(present, path)
            times = max(times, len(present))
            converted[f"{name}.lora_A.weight"] = matrices["A"]
            converted[f"{name}.lora_B.weight"] = matrices["B"]
    return {
        **config,
        **_fused_rank(config, times),
        "target_modules": _targets(converted),
    }, converted


def _fused(present: Mapping[str, Mapping[str, Any]], path: Path) -> dict[str, Any]:
    """Return A and B of several parts in one: a block per part, zeros for parts without adapter."""
    import torch

    query, key, value = MODULES[FUSED]
    some = next(iter(present.values()))
    either = present.get(key) or present.get(value)
    if either is None:
        raise InvalidFileError(
            path,
            None,
            Phrase("adapts the query but neither key nor value. Merge it into a model first"),
        )
    keys = either["B"].shape[0]
    rows = {query: some["A"].shape[1], key: keys, value: keys}
    rank = sum(part["A"].shape[0] for part in present.values())
    joined = some["B"].new_zeros(sum(rows.values()), rank)
    row = column = 0
    for name, count in rows.items():
        if name in present:
            block = present[name]["B"]
            joined[row : row + count, column : column + block.shape[1]] = block
            column += block.shape[1]
        row += count
    return {"A": torch.cat([part["A"] for part in present.values()]), "B": joined}


def _fused_rank(config: Mapping[str, Any], times: int) -> dict[str, Any]:
    """Return the settings that keep the scale: alpha over rank, or its root with use_rslora."""
    if times == 1:
        return {}
    module = FUSED.rpartition(".")[2]
    alpha_times = times**0.5 if config.get("use_rslora") else times
    return {
        "rank_pattern": {module: config["r"] * times},
        "alpha_pattern": {module: config["lora_alpha"] * alpha_times},
    }


def _layers(weights: Tensors, layer: str, modules: Iterable[str], path: Path) -> Layers:
    """Return A and B of every adapted module; raise ``InvalidFileError`` for any other tensor."""
    names = "|".join(re.escape(module) for module in modules)
    prefix = re.escape(_PREFIX + layer).replace(re.escape("{}"), r"(?P<layer>\d+)")
    pattern = re.compile(f"{prefix}(?P<module>{names}){_LORA}")
    layers: Layers = {}
    for name, tensor in weights.items():
        match = pattern.fullmatch(name)
        if match is None:
            raise InvalidFileError(
                path, None, Phrase("{name} does not exist in the other layout", name=name)
            )
        module = layers.setdefault(int(match["layer"]), {}).setdefault(match["module"], {})
        module[match["matrix"]] = tensor
    return layers


def _refuse_more(config: Mapping[str, Any], path: Path) -> None:
    """Raise ``InvalidFileError`` for an adapter that is more than A and B of one rank."""
    if config.get("peft_type") != "LORA":
        raise InvalidFileError(
            path, None, Phrase("is {kind} instead of LORA", kind=config.get("peft_type"))
        )
    for key in ("use_dora", "rank_pattern", "alpha_pattern", "layer_replication"):
        if config.get(key):
            raise InvalidFileError(
                path, None, Phrase("{key} is set. Merge it into a model first", key=key)
            )


def _targets(weights: Tensors) -> list[str]:
    return sorted({name.split(".lora_")[0].rpartition(".")[2] for name in weights})
