"""Private parts of transformers: its trainer's inner steps, and its rules of loading.

read: transformers 5.23.0. ``Trainer`` is imported where it is needed: its imports take seconds.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import _disable_current_modes
from transformers import masking_utils, modeling_utils
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    MergeModulelist,
    WeightConverter,
    WeightRenaming,
    dot_natural_key,
    rename_source_key,
    revert_weight_conversion,
)
from transformers.integrations.bitsandbytes import Bnb4bitQuantize
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.base import _assign_is_quantized, get_keys_to_not_convert
from transformers.quantizers.quantizer_bnb_4bit import Bnb4BitHfQuantizer
from transformers.quantizers.quantizers_utils import (
    get_module_from_name,
    should_convert_module,
)

from launcher.compat.replacement import Replacement, do_nothing, replaced
from planner.plan.bounds import LARGEST_PACKED

SCHEDULER_NAME = "scheduler.pt"
"""Name of the file of a checkpoint with the state of the learning rate; read: trainer.py."""
UNPACKED_REPLACEMENTS = (Replacement(masking_utils, "find_packed_sequence_indices", do_nothing),)
"""Samples are not looked for among the positions: every fake batch would be taken for packed."""


class SavedOnHost(saved_tensors_hooks):
    """Mirror of torch's ``save_on_cpu`` on fake tensors, which know no host: what waits there is in
    no storage.

    read: torch/autograd/graph.py at 2.13.
    """

    def __init__(self, pin_memory: bool = False, device_type: str = "cuda") -> None:
        super().__init__(
            lambda tensor: (tensor.shape, tensor.dtype, tensor.device),
            lambda saved: torch.empty(saved[0], dtype=saved[1], device=saved[2]),
        )


CUDA_REPLACEMENTS = (Replacement(modeling_utils, "save_on_cpu", SavedOnHost),)
"""Functions that keep on a CPU what they would move away from CUDA."""


class UnloggedLoss(NamedTuple):
    """Losses that a trainer has summed and not logged yet."""

    loss: float
    """Sum since the last logged step."""
    total: float
    """Sum up to the last logged step."""
    last_logged_step: int


class TrainerHooks:
    """Public names for the private steps of a ``Trainer``; stands before it among the bases.

    A subclass overrides ``checkpoints_folder``, and may override the other hooks.
    """

    def checkpoints_folder(self) -> Path:
        """Return the folder that checkpoints are written to."""
        raise NotImplementedError

    def save_checkpoint(self, write: Callable[[], None]) -> None:
        """Save a checkpoint; ``write`` writes its files, on every rank."""
        write()

    def checkpoint_loaded(self) -> None:
        """Mend what loading a checkpoint's weights has changed."""

    @property
    def is_in_parts(self) -> bool:
        """Whether each rank has a part of every matrix, of which transformers would save the first
        rank's optimizer states alone; ``save_parts`` and ``load_parts`` save all."""
        return False

    def save_parts(self, checkpoint: Path) -> None:
        """Write this rank's part of what trains and of the optimizer's states."""

    def load_parts(self, checkpoint: Path) -> None:
        """Read what ``save_parts`` has written."""

    def together(self, run: Callable[[], Any]) -> Any:
        """Return what ``run`` returns, in which every rank waits for all others, outside of the
        passes."""
        return run()

    def standard_loss(self, *inputs: Any, **options: Any) -> Any:
        """Return the loss as ``Trainer`` computes it, whatever a subclass in between does."""
        from transformers import Trainer

        return Trainer.compute_loss(self, *inputs, **options)

    def unlogged_loss(self) -> UnloggedLoss:
        """Return the sums; waits for the device."""
        trainer: Any = self
        return UnloggedLoss(
            loss=trainer._tr_loss.item(),
            total=trainer._total_loss_scalar,
            last_logged_step=trainer._globalstep_last_logged,
        )

    def restore_unlogged_loss(self, unlogged: UnloggedLoss) -> None:
        """Restore the sums; called once training has begun, which sets them to zero."""
        trainer: Any = self
        trainer._tr_loss += unlogged.loss
        trainer._total_loss_scalar = unlogged.total
        trainer._globalstep_last_logged = unlogged.last_logged_step

    def _get_output_dir(self, trial: Any) -> str:
        return str(self.checkpoints_folder())

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Pass over trl's method, which writes a model card, and call transformers' own."""
        from transformers import Trainer

        self.save_checkpoint(lambda: Trainer._save_checkpoint(self, model, trial))

    def _get_num_items_in_batch(self, *inputs: Any) -> Any:
        parent: Any = super()
        return self.together(lambda: parent._get_num_items_in_batch(*inputs))

    def _maybe_log_save_evaluate(self, *inputs: Any, **options: Any) -> None:
        """Meet the other ranks before the loss is gathered, which would wait for them as well."""
        trainer: Any = self
        parent: Any = super()
        if trainer.control.should_log:
            self.together(trainer.accelerator.wait_for_everyone)
        parent._maybe_log_save_evaluate(*inputs, **options)

    def _save(self, *where: Any, **options: Any) -> None:
        """Save the whole model, but not in a checkpoint that has the parts of all ranks."""
        parent: Any = super()
        if not self.is_in_parts:
            parent._save(*where, **options)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        trainer: Any = self
        parent: Any = super()
        if not self.is_in_parts:
            parent._save_optimizer_and_scheduler(output_dir)
            return
        self.save_parts(Path(output_dir))
        if trainer.args.should_save:
            torch.save(trainer.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        trainer: Any = self
        parent: Any = super()
        if not self.is_in_parts:
            parent._load_optimizer_and_scheduler(checkpoint)
        elif checkpoint is not None:
            self.load_parts(Path(checkpoint))
            scheduler = torch.load(Path(checkpoint) / SCHEDULER_NAME, weights_only=True)
            trainer.lr_scheduler.load_state_dict(scheduler)

    def _load_from_checkpoint(self, *where: Any, **options: Any) -> None:
        if self.is_in_parts:
            return  # the optimizer's states and the weights are loaded together
        parent: Any = super()
        parent._load_from_checkpoint(*where, **options)
        self.checkpoint_loaded()


def trainer_optimizer(model: Any, arguments: Any) -> torch.optim.Optimizer:
    """Return the optimizer that a trainer with these arguments makes for the model.

    read: Trainer.create_optimizer, which needs nothing else of a trainer.
    """
    from transformers import Trainer

    trainer = Trainer.__new__(Trainer)
    trainer.model, trainer.args = model, arguments
    trainer.optimizer = trainer.optimizer_cls_and_kwargs = None
    made: torch.optim.Optimizer = trainer.create_optimizer()
    return made


def set_experts_implementation(model: Any, name: str) -> None:
    """Choose how routed experts are computed; a model without any is left as it is."""
    if model._can_set_experts_implementation():
        model.set_experts_implementation(name)


def layers_of(model: Any) -> Iterator[torch.nn.Module]:
    """Yield the layers of a model, by the classes that are never split over devices."""
    names = set(model._no_split_modules or ())
    for module in model.modules():
        if type(module).__name__ in names:
            yield module


def supports_sdpa(model: Any) -> bool:
    """Return whether the model has PyTorch's scaled dot-product attention."""
    return bool(model._supports_sdpa)


def quantized_linears(model: Any) -> Iterator[tuple[str, torch.nn.Linear | Conv1D]]:
    """Yield the name and module of every matrix that bitsandbytes packs when the model is loaded.

    read: transformers/quantizers/base.py, get_modules_to_not_convert, and
    integrations/bitsandbytes.py, replace_with_bnb_linear.
    """
    whole = [*get_keys_to_not_convert(model), *(model._keep_in_fp32_modules or ())]
    for name, module in model.named_modules():
        is_matrix = type(module) is torch.nn.Linear or isinstance(module, Conv1D)
        if is_matrix and should_convert_module(name, whole):
            yield name, module


def mark_quantized(model: Any) -> None:
    """Mark a model as loaded with packed matrices, which the mixers of Mamba's kind ask about."""
    _assign_is_quantized(model)


def expert_stacks(model: Any) -> Iterator[tuple[torch.nn.Module, str]]:
    """Yield the module and name of every parameter that holds one matrix of each expert of a layer,
    where grouped products multiply with it, if bitsandbytes can pack it."""
    for module in model.modules():
        for name in stacks_of(module):
            yield module, name


def stacks_of(module: torch.nn.Module, *, of_any_size: bool = False) -> list[str]:
    """Return the names of a module's own parameters of that kind, or with those that are too large
    for bitsandbytes."""
    own = module.named_parameters(recurse=False)
    limit = None if of_any_size else LARGEST_PACKED
    return [name for name, parameter in own if _is_stack(module, parameter, limit)]


def _is_stack(
    module: torch.nn.Module, parameter: torch.Tensor, limit: int | None = LARGEST_PACKED
) -> bool:
    """Return whether a module's parameter is such a stack, of fewer weights than the limit.

    read: transformers/integrations/moe.py, use_experts_implementation.
    """
    if not hasattr(module, "_is_expert_parallel"):
        return False
    packed = getattr(parameter, "quant_state", None)
    shape = parameter.shape if packed is None else packed.shape
    return len(shape) == 3 and (limit is None or shape.numel() < limit)


def packing_on_load(pack: Callable[[torch.Tensor], torch.nn.Parameter]) -> list[Replacement]:
    """Return replacements that have a load in 4 bit pack stacks of experts by ``pack``, too."""
    is_packed = Bnb4BitHfQuantizer.param_needs_quantization

    def needs_packing(quantizer: Any, model: Any, param_name: str, **options: Any) -> bool:
        module, name = get_module_from_name(model, param_name)
        parameter = module._parameters.get(name)
        if parameter is not None and _is_stack(module, parameter):
            return True
        return bool(is_packed(quantizer, model, param_name, **options))

    class Packing(Bnb4bitQuantize):  # type: ignore[misc]
        def convert(self, input_dict: Any, **options: Any) -> Any:
            model, packed = options["model"], {}
            for name in list(input_dict):
                module, last = get_module_from_name(model, name)
                if _is_stack(module, module._parameters[last]):
                    whole = input_dict.pop(name)
                    packed[name] = pack(whole[0] if isinstance(whole, list) else whole)
            return packed | super().convert(input_dict, **options)

    return [
        Replacement(Bnb4BitHfQuantizer, "param_needs_quantization", needs_packing),
        Replacement(Bnb4BitHfQuantizer, "get_quantize_ops", lambda quantizer: Packing(quantizer)),
    ]


class StoredStacks:
    """The tensors of a checkpoint's files that a load joins to stacks of experts.

    read: transformers/core_model_loading.py, convert_and_load_state_dict_in_model.
    """

    def __init__(self, model: Any, keys: Iterable[str], *, of_any_size: bool = False) -> None:
        self._model = model
        conversions = get_model_conversion_mapping(model)
        renamings = [each for each in conversions if isinstance(each, WeightRenaming)]
        converters = [each for each in conversions if isinstance(each, WeightConverter)]
        self._by_source = {source: each for each in converters for source in each.source_patterns}
        stacks = {
            f"{place}.{name}"
            for place, inside in model.named_modules()
            for name in stacks_of(inside, of_any_size=of_any_size)
        }
        self.keys: dict[str, dict[str, str | None]] = {}
        """The keys of each stack, by its name, in the order of a load, with the pattern that each
        of them matches; None where a stack is stored as it is."""
        weights = model.state_dict()
        for key in in_order_of_loading(keys):
            name, source = rename_source_key(
                key, renamings, converters, model.base_model_prefix, weights
            )
            if name in stacks:
                self.keys.setdefault(name, {})[key] = source

    def holds(self, wrapped: str) -> bool:
        """Return whether a module that peft has wrapped, by its name, has stacks."""
        place = wrapped.replace(".base_layer", "")
        return any(name.startswith(f"{place}.") for name in self.keys)

    def nested(self, wrapped: str, targets: Collection[str]) -> str:
        """Return the stack that peft's wrapper of a module's name adapts, if it adapts ``targets``.

        The wrapper of the first of a module's parameters stands inside of all others; read:
        peft/tuners/tuners_utils.py at 0.21.2, _inject_parameters.
        """
        place = wrapped.replace(".base_layer", "")
        module = self._model.get_submodule(place)
        last = place.rpartition(".")[2]
        names = stacks_of(module, of_any_size=True)
        adapted = [name for name in names if f"{last}.{name}" in targets]
        return f"{place}.{adapted[-1 - wrapped.count('.base_layer')]}"

    def is_transposed(self, name: str) -> bool:
        """Return whether a stack's matrices are (in, out)."""
        return bool(self._model.get_submodule(name.rpartition(".")[0]).is_transposed)

    def joined(self, name: str, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return a stack of its tensors in the files."""
        sources = self.keys[name]
        first = next(iter(sources.values()))
        if first is None:
            return next(iter(tensors.values()))
        conversion = deepcopy(self._by_source[first])
        for key, source in sources.items():
            conversion.add_tensor(name, key, source, tensors[key])
        whole: torch.Tensor
        (whole,) = conversion.convert(name, model=self._model, config=self._model.config).values()
        return whole

    def parted(self, name: str, whole: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the tensors in the files of a stack.

        Raises ``KeyError`` if the files name them otherwise than transformers writes them.
        """
        parts = revert_weight_conversion(self._model, {name: whole})
        without_prefix = {key.partition(".")[2]: tensor for key, tensor in parts.items()}
        return {key: {**without_prefix, **parts}[key] for key in self.keys[name]}


def kept_in_fp32(model: Any) -> set[str]:
    """Return the names of parameters that a load leaves in fp32 whatever dtype is asked for.

    read: transformers/modeling_utils.py at 5.23, _keep_in_fp32_modules_strict.
    """
    parts = [f".{part}." for part in getattr(model, "_keep_in_fp32_modules_strict", None) or ()]
    names = (name for name, _ in model.named_parameters())
    return {name for name in names if any(part in f".{name}." for part in parts)}


def in_order_of_loading(names: Iterable[str]) -> list[str]:
    """Return names of tensors, or of modules, in the order in which a load comes to them."""
    return sorted(names, key=dot_natural_key)


def summing_gradients_at_once() -> list[Replacement]:
    """Return replacements that have a load leave norms of heads, which each rank sees some of, with
    gradients that are summed over the ranks as they come: transformers sums what has been added up,
    once more after each further micro-batch.

    read: transformers/distributed/tensor_parallel.py, ReplicatedWithGradAllReduce.
    """
    from transformers.distributed.tensor_parallel import ReplicatedWithGradAllReduce

    def install_forward(_style: Any, module: Any, mesh: Any) -> Any:
        forward, hooked = module.forward, dict[str, torch.nn.Parameter]()

        def summed(gradient: torch.Tensor) -> torch.Tensor:
            total = gradient.clone()
            torch.distributed.all_reduce(total, group=mesh.get_group())
            return total

        def hooking(*inputs: Any, **options: Any) -> Any:
            for name, parameter in module.named_parameters(recurse=False):
                is_new = hooked.get(name) is not parameter  # a load replaces what it is made with
                if torch.is_grad_enabled() and parameter.requires_grad and is_new:
                    parameter.register_hook(summed)
                    hooked[name] = parameter
            return forward(*inputs, **options)

        module.forward = hooking
        return module

    return [Replacement(ReplicatedWithGradAllReduce, "install_forward", install_forward)]


def cut_over_ranks(model: Any, device_type: str, ranks: int) -> Any:
    """Return a model on ``meta`` with its layers cut over ranks, as a load leaves it before it has
    weights; a load ties them last.

    read: transformers/distributed/utils.py, initialize_distributed_mesh; modeling_utils.py,
    from_pretrained.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from transformers.distributed import DistributedConfig
    from transformers.distributed.utils import TransformersDeviceMesh

    names = ("pp", "dp_replicate", "fsdp", "tp")
    with _disable_current_modes(), torch.device("cpu"):  # the mesh reads its ranks
        mesh = init_device_mesh(device_type, (1, 1, 1, ranks), mesh_dim_names=names)
    head = model.get_output_embeddings()
    head.weight = torch.nn.Parameter(head.weight.detach().clone())
    with replaced(summing_gradients_at_once()):
        model = model.maybe_distribute_model(
            model, DistributedConfig(tp_size=ranks), TransformersDeviceMesh(mesh, mesh)
        )
    model.tie_weights()
    return model


def clip_cut_gradients(model: Any, max_norm: float) -> torch.Tensor:
    """Clip gradients of which some are cut over ranks, as the trainer does; return their norm.

    read: transformers/trainer.py, _clip_grad_norm.
    """
    from transformers import Trainer

    norm: torch.Tensor = Trainer._mixed_mesh_grad_norm(None, model, max_norm)
    return norm


def stacked_parameters(model: Any) -> Iterator[torch.nn.Parameter]:
    """Yield the parameters that a load stacks from one matrix per expert, or joins of stacks."""
    joined: list[re.Pattern[str]] = [
        re.compile(target)
        for converter in get_model_conversion_mapping(model)
        if isinstance(converter, WeightConverter)
        and any(isinstance(step, MergeModulelist) for step in converter.operations)
        for target in converter.target_patterns
    ]
    for name, parameter in model.named_parameters():
        if any(target.search(name) for target in joined):
            yield parameter
