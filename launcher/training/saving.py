"""The trained adapter or model on disk: safetensors and its tokenizer, whole or absent; and, of a
model whose layers are cut over the ranks, the parts of a checkpoint.

read: transformers/trainer.py at 5.23.0, _save_optimizer_and_scheduler, which writes the optimizer's
states of the first rank alone.
"""

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_state_dict,
    set_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from launcher.adapters.parted_base import for_whole_base
from launcher.compat.deepspeed import gathered_weights
from launcher.data.stop_tokens import as_ids
from launcher.faults.failure import NotSavedError
from launcher.run.run_directory import RunDirectory
from launcher.storage.whole_folders import whole_folder
from launcher.training.fully_sharded import whole_weights
from launcher.training.model_building import cast_trainable
from launcher.training.optimizer import put_average
from planner.base.units import MIB
from planner.plan.schema import Plan

PARTS = "parts"
"""Folder of a checkpoint with the parts of all ranks."""


def stop_at(model: Any, tokens: Iterable[int]) -> None:
    """Let generation stop at end marks that the training teaches beside those it knows."""
    known = as_ids(model.generation_config.eos_token_id)
    stops = list(dict.fromkeys([*known, *tokens]))
    if len(stops) > len(known):
        model.generation_config.eos_token_id = stops


def save_result(plan: Plan, trainer: Any, run: RunDirectory, new_stops: Mapping[str, int]) -> None:
    """Write the adapter or the model. Called on every rank: all gather shards, and rank 0 writes.

    A full model is written in the precision in which its matrices were multiplied, an adapter that
    was a part of its base as one for the base as it was. Raises ``NotSavedError`` if it cannot be
    written.
    """
    put_average(trainer.optimizer)
    model = trainer.accelerator.unwrap_model(trainer.model)
    options: dict[str, Any] = {}
    if plan.parallel.zero_stage == 3:
        options["state_dict"] = gathered_weights(
            trainer.model_wrapped, with_frozen=plan.adapter is None
        )
    elif plan.parallel.strategy in ("fsdp", "tensor"):
        options["state_dict"] = whole_weights(plan, model)
        model.config.distributed_config = None  # what is written is whole
    elif plan.adapter is None:
        cast_trainable(model, plan.precision.compute)
    if trainer.accelerator.is_main_process:
        target = run.result(plan)
        parts = plan.adapter is not None and plan.adapter.changes_base
        try:
            _write(
                model,
                trainer.processing_class,
                target,
                options,
                new_stops,
                began=run.initial_adapter if parts else None,
            )
        except Exception as error:
            raise NotSavedError(why_not_saved("the result", target, error)) from error
    trainer.accelerator.wait_for_everyone()


def _write(
    model: Any,
    tokenizer: Any,
    target: Path,
    options: dict[str, Any],
    new_stops: Mapping[str, int],
    *,
    began: Path | None,
) -> None:
    """Write the result; an adapter has generation settings beside it if it has new end marks.

    ``began`` is the folder of what an adapter began as that was taken out of its base.
    """
    with whole_folder(target) as partial:
        if new_stops:
            stop_at(model, new_stops.values())
            model.generation_config.save_pretrained(partial)
        model.save_pretrained(partial, **options)
        if began is not None:
            for_whole_base(partial, began)
        tokenizer.save_pretrained(partial)
        if target.exists():  # of an attempt that could not write its report
            shutil.rmtree(target)


def why_not_saved(what: str, target: Path, error: Exception) -> str:
    """Return one line with the free disk space: a library's error seldom names a full disk."""
    lines = str(error).strip().splitlines()
    reason = lines[0] if lines else type(error).__name__
    free = f"{shutil.disk_usage(target.parent).free / MIB:,.0f} MiB of disk are free there"
    return f"{what} could not be written ({reason}); {free}"


def save_parts(model: Any, optimizer: Any, checkpoint: Path) -> None:
    """Write what trains and the optimizer's states; called on every rank."""
    save(_parts(model, optimizer), checkpoint_id=checkpoint / PARTS)


def load_parts(model: Any, optimizer: Any, checkpoint: Path) -> None:
    """Read what :func:`save_parts` has written; called on every rank."""
    parts = _parts(model, optimizer)
    load(parts, checkpoint_id=checkpoint / PARTS)
    set_state_dict(
        model,
        optimizer,
        model_state_dict=parts["model"],
        optim_state_dict=parts["optimizer"],
        options=StateDictOptions(strict=False, flatten_optimizer_state_dict=True),
    )


def _parts(model: Any, optimizer: Any) -> dict[str, Any]:
    options = StateDictOptions(ignore_frozen_params=True, flatten_optimizer_state_dict=True)
    of_model, of_optimizer = get_state_dict(model, optimizer, options=options)
    return {"model": of_model, "optimizer": of_optimizer}
