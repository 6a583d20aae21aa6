"""Private parts of DeepSpeed: what its engine holds, how it shards, what it compiles.

read: DeepSpeed 0.19.8. It is imported where it is needed: its import takes seconds.
"""

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch

from launcher.compat.replacement import Replacement, replaced

ZERO_OPTIMIZERS: Mapping[int, str | None] = {
    0: None,
    1: "DeepSpeedZeroOptimizer",
    2: "DeepSpeedZeroOptimizer",
    3: "DeepSpeedZeroOptimizer_Stage3",
}
"""Class name of the engine's optimizer by ZeRO stage.

read: deepspeed/runtime/zero/stage_1_and_2.py and stage3.py.
"""


def compile_no_collectives() -> None:
    """Have DeepSpeed do without its collectives in shared memory.

    They take a minute and a compiler at their first use.
    """
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def load_tensors_alone(*, zero: bool) -> None:
    """Have ``torch.load`` build tensors and plain values alone, and refuse any other pickle.

    DeepSpeed asks for whatever its files hold, and a checkpoint may come from anybody. What its
    own files hold beside tensors is allowed for a run under ``zero``.

    read: deepspeed/runtime/checkpoint_engine/torch_checkpoint_engine.py;
    deepspeed/runtime/zero/stage_1_and_2.py and stage3.py, state_dict; torch/serialization.py at
    2.13, load, for the variable.
    """
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    if not zero:
        return
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    known = [DynamicLossScaler, LossScaler, ZeroStageEnum, fragment_address]
    torch.serialization.add_safe_globals(known)


def is_engine(model: Any) -> bool:
    """Return whether DeepSpeed wraps the model; does not import it."""
    return type(model).__module__.startswith("deepspeed.")


def user_optimizer(engine: Any) -> Any:
    """Return the optimizer that was given to the engine, inside its ZeRO optimizer."""
    return engine.basic_optimizer


def num_sharded_elements(parameter: Any) -> int | None:
    """Return how many numbers a ZeRO-3 parameter has on all ranks; None if it is not sharded."""
    numel = getattr(parameter, "ds_numel", None)
    return None if numel is None else int(numel)


def gathered_weights(engine: Any, *, with_frozen: bool) -> dict[str, Any]:
    """Return the 16-bit weights of a ZeRO-3 engine, whole on rank 0; called on every rank."""
    weights: dict[str, Any] = engine._zero3_consolidated_16bit_state_dict(
        exclude_frozen_parameters=not with_frozen
    )
    return weights


def shard(model: Any, config: dict[str, Any]) -> None:
    """Shard a model for ZeRO-3 as loading does; buffers stay whole. A module's parameters are whole
    on the device for a moment, when they would be filled.

    read: deepspeed/runtime/zero/partition_parameters.py, Init; engine.py,
    _configure_distributed_model, which moves a model whole unless it is sharded already;
    transformers/integrations/deepspeed.py at 5.23.0, _load_state_dict_into_zero3_model.
    """
    import deepspeed

    deepspeed.zero.Init(module=model, config_dict_or_path=config)
    for module in model.modules():
        with deepspeed.zero.GatheredParameters(list(module.parameters(recurse=False))):
            pass
    device = deepspeed.get_accelerator().current_device_name()
    for buffer in model.buffers():
        buffer.data = buffer.data.to(device)


def zero_3_linear() -> AbstractContextManager[None]:
    """Compute linear layers as ZeRO-3 does: they keep their input even where nothing trains.

    read: deepspeed/runtime/zero/linear.py.
    """
    from deepspeed.runtime.zero.linear import zero3_linear_wrap

    return replaced([Replacement(torch.nn.functional, "linear", zero3_linear_wrap)])
