"""Private parts of transformers: its trainer's inner steps, and its rules of loading.

read: transformers 5.23.0. ``Trainer`` is imported where it is needed: its imports take seconds.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import masking_utils
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    MergeModulelist,
    WeightConverter,
    dot_natural_key,
)
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.base import get_keys_to_not_convert
from transformers.quantizers.quantizers_utils import should_convert_module

from launcher.compat.replacement import Replacement, do_nothing

UNPACKED_REPLACEMENTS = (Replacement(masking_utils, "find_packed_sequence_indices", do_nothing),)
"""Samples are not looked for among the positions: every fake batch would be taken for packed."""


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

    def _load_from_checkpoint(self, *where: Any, **options: Any) -> None:
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
