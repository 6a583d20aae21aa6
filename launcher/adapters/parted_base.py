"""Adapters that begin as a part of their base's weights: PiSSA (arXiv:2404.02948) and OLoRA
(arXiv:2406.01775).

The part, s B A, is taken out of the base, so that the model begins as it was and what trains first
is what a matrix does most. What is left of a base, A and B are peft's to the last bit
(peft/tuners/lora/layer.py at 0.21.2, pissa_init and olora_init). Otherwise than there:

* one matrix after the other is decomposed in host memory, by the first rank, which hands A and B to
  the others: the device holds what it holds for LoRA, since what cuSOLVER asks for there is said by
  no source, and all ranks begin with the same signs and roundings;
* A and B are kept in the run directory, for a run that resumes and for its result;
* they are rounded before the base is parted, to the precision in which they train, so that nothing
  of a weight is lost to that; peft rounds them afterwards, to the base's precision
  (_move_adapter_to_device_of_base_layer).

The result is an adapter of twice the rank, [B, -B0] and [A, A0], for the base as it was, as peft's
``save_pretrained`` with ``path_initial_model_for_weight_conversion`` makes it.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from launcher.storage import adapter_files
from launcher.storage.json_files import read_json, write_json
from launcher.storage.whole_folders import whole_folder
from planner.base.errors import InvalidFileError
from planner.base.phrases import Phrase
from planner.plan.adapter_init import OLORA, iterations
from planner.plan.schema import AdapterSection

Pair = tuple[torch.Tensor, torch.Tensor]
"""A and B of one matrix."""
NAME = "default"
"""peft's name of the adapter."""
FILE = "began.safetensors"
"""File of A and B as they began, under the names of peft's own file."""


def part_base(
    adapter: AdapterSection,
    model: Any,
    kept: Path,
    *,
    dtype: torch.dtype,
    device: torch.device,
    resumes: bool,
    at_matrix: Callable[[], None],
) -> None:
    """Begin a model's adapter by taking it out of the base; called on every rank.

    ``kept`` is the folder in which A and B are kept, in the ``dtype`` in which they train;
    ``at_matrix`` is called before each matrix, since a decomposition takes long. Raises
    ``InvalidFileError`` for a run that resumes without that folder.
    """
    layers = {name: part for name, part in model.named_modules() if isinstance(part, LoraLayer)}
    is_first = not _is_one_of_several() or torch.distributed.get_rank() == 0
    known = _kept_pairs(kept, adapter, layers, resumes=resumes) if is_first else None
    made: dict[str, Pair] = {}
    with torch.random.fork_rng(devices=[]):  # the first rank alone draws numbers
        for name, layer in layers.items():
            at_matrix()
            weight = _on_host(layer)
            down, up = layer.lora_A[NAME].weight.data, layer.lora_B[NAME].weight.data
            if is_first:
                pair = known[name] if known else None
                if pair is None:
                    with _as_many_threads_as_cores():
                        pair = begun(weight, adapter, layer.scaling[NAME], dtype)
                made[name] = pair
                down.copy_(pair[0])
                up.copy_(pair[1])
            _hand_out(down, device)
            _hand_out(up, device)
            rest = without_part(weight, (down.cpu(), up.cpu()), layer.scaling[NAME])
            rest = rest.t() if layer.fan_in_fan_out else rest
            layer.get_base_layer().weight.data.copy_(rest)
    if is_first and known is None:
        _keep(kept, adapter, made)


def begun(
    weight: torch.Tensor, adapter: AdapterSection, scaling: float, dtype: torch.dtype
) -> Pair:
    """Return A and B of a matrix (out, in) of any floating dtype, in ``dtype``."""
    whole, rank = weight.to(torch.float32), adapter.rank
    if adapter.init == OLORA:
        left, right = torch.linalg.qr(whole)
        return right[:rank].to(dtype).contiguous(), left[:, :rank].to(dtype).contiguous()
    steps = iterations(adapter.init)
    if steps is None:
        left, values, right = torch.linalg.svd(whole, full_matrices=False)
        left, values, right = left[:, :rank], values[:rank], right[:rank]
    else:
        left, values, right = torch.svd_lowrank(whole, rank, niter=steps)
        right = right.t()
    roots = torch.diag(torch.sqrt(values / scaling))
    return (roots @ right).to(dtype), (left @ roots).to(dtype)


def without_part(weight: torch.Tensor, pair: Pair, scaling: float) -> torch.Tensor:
    """Return a matrix (out, in) less its adapter's part, in its dtype."""
    down, up = (each.to(weight.device, torch.float32) for each in pair)
    return (weight.to(torch.float32) - scaling * up @ down).to(weight.dtype)


def for_whole_base(folder: Path, kept: Path) -> None:
    """Make an adapter's folder one for the base as it was, by what it began as."""
    file, config = folder / adapter_files.WEIGHTS, folder / adapter_files.CONFIG
    trained, began = load_file(file), load_file(kept / FILE)
    for key, first in began.items():
        is_up = key.endswith("lora_B.weight")
        trained[key] = torch.cat([trained[key], -first if is_up else first], dim=int(is_up))
    save_file(trained, file, metadata={"format": "pt"})
    settings = read_json(config)
    times = 2**0.5 if settings["use_rslora"] else 2
    doubled = {"r": 2 * settings["r"], "lora_alpha": times * settings["lora_alpha"]}
    write_json(config, {**settings, **doubled})


def _on_host(layer: Any) -> torch.Tensor:
    """Return a layer's weight in host memory, as (out, in)."""
    weight: torch.Tensor = layer.get_base_layer().weight.data.cpu()
    return weight.t() if layer.fan_in_fan_out else weight


def _is_one_of_several() -> bool:
    return torch.distributed.is_initialized()


def _hand_out(tensor: torch.Tensor, device: torch.device) -> None:
    """Give all ranks the first one's numbers, by way of the device, where NCCL takes them."""
    if not _is_one_of_several():
        return
    there = tensor.to(device)
    torch.distributed.broadcast(there, src=0)
    if there is not tensor:
        tensor.copy_(there)


@contextmanager
def _as_many_threads_as_cores() -> Iterator[None]:
    """Use all cores, of which torch elastic leaves a rank one, to decompose alone: a base is parted
    with the threads that a run has which resumes, so that sums are in the same order."""
    before = torch.get_num_threads()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _settings(adapter: AdapterSection) -> dict[str, str]:
    """Return what A and B depend on beside the weights."""
    names = ("init", "rank", "alpha", "rslora")
    return {name: str(getattr(adapter, name)) for name in names}


def _key(name: str, matrix: str) -> str:
    return f"{name}.lora_{matrix}.weight"


def _kept_pairs(
    kept: Path, adapter: AdapterSection, names: Any, *, resumes: bool
) -> dict[str, Pair] | None:
    """Return A and B of every matrix as an earlier attempt has begun; None if there is none."""
    file = kept / FILE
    if file.is_file():
        with safe_open(file, framework="pt") as opened:
            same = opened.metadata() == _settings(adapter)
        if same:
            found = load_file(file)
            return {n: (found[_key(n, "A")], found[_key(n, "B")]) for n in names}
    if resumes:
        raise InvalidFileError(
            file,
            None,
            Phrase(
                "does not hold what the adapter began as, without which the checkpoints are of no "
                "use. Put it back, or begin anew"
            ),
        )
    return None


def _keep(kept: Path, adapter: AdapterSection, pairs: dict[str, Pair]) -> None:
    tensors = {
        _key(name, matrix): tensor.contiguous()
        for name, pair in pairs.items()
        for matrix, tensor in zip("AB", pair, strict=True)
    }
    with whole_folder(kept) as partial:
        save_file(tensors, partial / FILE, metadata=_settings(adapter))
        if kept.exists():  # of an attempt with other settings
            shutil.rmtree(kept)
