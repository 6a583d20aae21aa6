"""A model sharded by PyTorch's FSDP2 (``fully_shard``) over all ranks, or over the ranks of each of
several copies, in the units that the memory model counts (planner/workload/fsdp_units.py).

The units are those of accelerate 1.15.0 (utils/fsdp_utils.py, fsdp2_prepare_model), with the last
norm found in models with adapters, too: each layer; the token embedding; the last norm and the
head, which stay whole from the one's forward to the other's backward pass, so that trl's fused loss
finds the head's weight; and the root. A head that is tied to the embedding is one unit with it.
What stands beside a text model is one unit, and not one of each of its layers: no text passes it,
so that it is never gathered.

Ranks that follow each other share a copy: torchrun numbers those of a node one after the other
(torch/distributed/elastic/agent/server/api.py at 2.13, _assign_worker_ranks).
"""

from collections.abc import Iterator
from typing import Any

import torch
from peft import PeftModel
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
)
from torch.distributed.tensor import DTensor

from launcher.compat.bitsandbytes import move_constants
from launcher.compat.transformers import layers_of
from launcher.training.model_building import DTYPES, cast_trainable
from launcher.training.text_model import towers
from planner.plan.schema import Plan, PrecisionSection


def shard(plan: Plan, model: Any, device: torch.device) -> None:
    """Move a model to this rank's device unit by unit, and leave it its shards.

    Every rank must call it with the same weights, in host memory: then no device has to hold the
    whole model.
    """
    options: dict[str, Any] = {
        "mesh": _mesh(plan, device),
        "mp_policy": mixed_precision(plan.precision),
    }
    if plan.parallel.offload == "all":
        options["offload_policy"] = CPUOffloadPolicy()
    for modules, stays in units(model):
        for module in modules:
            cast_trainable(module, plan.precision.home)
            move_constants(module, device)
        fully_shard(modules, reshard_after_forward=not stays, **options)
    cast_trainable(model, plan.precision.home)
    move_constants(model, device)
    fully_shard(model, **options)
    if device.type == "cpu":  # gloo averages nothing
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.set_force_sum_reduction_for_comms(True)


def _mesh(plan: Plan, device: torch.device) -> DeviceMesh:
    """Return all ranks; with several copies of the parameters a row for each of them."""
    copies, shards = plan.parallel.copies, plan.parallel.shard_ranks
    if copies == 1:
        return init_device_mesh(device.type, (shards,))
    return init_device_mesh(device.type, (copies, shards), mesh_dim_names=("copies", "shards"))


def num_copies(parameter: torch.nn.Parameter) -> int:
    """Return how often the whole of a parameter exists over all ranks that shard it."""
    if not isinstance(parameter, DTensor):
        return 1
    mesh = parameter.device_mesh
    return mesh.size(0) if mesh.ndim > 1 else 1


def reduce_between_copies(plan: Plan, model: Any, *, now: bool) -> None:
    """Let the next backward pass sum gradients over all copies of the parameters, or leave that to
    a later micro-batch of the step: the network between nodes then carries them once.

    read: torch/distributed/fsdp/_fully_shard/_fsdp_collectives.py at 2.13, foreach_reduce: until
    then they are added up within each copy, in the dtype that is reduced.
    """
    if plan.parallel.copies > 1:
        model.set_requires_all_reduce(now)


def whole_weights(plan: Plan, model: Any) -> dict[str, Any]:
    """Return the weights as they are written, whole in host memory on rank 0: those of the
    adapter, or all in the compute precision. Called on every rank."""
    options = StateDictOptions(
        full_state_dict=True, cpu_offload=True, ignore_frozen_params=plan.adapter is not None
    )
    weights: dict[str, Any] = get_model_state_dict(model, options=options)
    once = {name for name, _ in model.named_parameters()}
    for name, _ in model.named_parameters(remove_duplicate=False):
        if name not in once:  # a tied weight's other name
            weights.pop(name, None)
    if plan.adapter is None:
        for name in weights:  # one at a time, since all of them are here twice as wide
            weights[name] = weights[name].to(DTYPES[plan.precision.compute])
    return weights


def mixed_precision(precision: PrecisionSection) -> MixedPrecisionPolicy:
    """Return the dtypes of what is gathered and of what is reduced: gradients are added up in the
    dtype that the optimizer updates."""
    if precision.home == precision.compute:
        return MixedPrecisionPolicy()
    return MixedPrecisionPolicy(
        param_dtype=DTYPES[precision.compute], reduce_dtype=DTYPES[precision.home]
    )


def units(model: Any) -> Iterator[tuple[list[torch.nn.Module], bool]]:
    """Yield the modules of each unit but the root, and whether it stays whole between forward and
    backward."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    beside = [base.get_submodule(name) for name in towers(base)]
    if beside:
        yield beside, False
    in_towers = {id(module) for tower in beside for module in tower.modules()}
    layers = [layer for layer in layers_of(model) if id(layer) not in in_towers]
    for layer in layers:
        yield [layer], False
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    norm = last_norm(model, layers)
    tail = [head] if norm is None else [norm, head]
    if embedding.weight is head.weight:
        tail.append(embedding)
    else:
        yield [embedding], False
    yield tail, True


def last_norm(model: Any, layers: list[torch.nn.Module]) -> torch.nn.Module | None:
    """Return the norm behind all layers; None if the model has none."""
    inside = {id(module) for layer in layers for module in layer.modules()}
    norms = [
        module
        for module in model.modules()
        if id(module) not in inside and "Norm" in type(module).__name__
    ]
    return norms[-1] if norms else None
