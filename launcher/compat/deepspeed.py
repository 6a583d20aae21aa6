"""Private parts of DeepSpeed: what its engine holds, how it shards, what it compiles.

read: DeepSpeed 0.19.8. It is imported where it is needed: its import takes seconds.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
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


def form_sequence_groups(size: int) -> None:
    """Form groups of so many ranks that share each sequence. The engine finds them, shards states
    over all ranks and averages gradients over groups.

    read: deepspeed/runtime/sequence_parallel/parallel_state_sp.py; utils/groups.py;
    runtime/engine.py, _configure_distributed_model, which puts the module there itself if it is
    given one.
    """
    from deepspeed.runtime.sequence_parallel import parallel_state_sp
    from deepspeed.utils import groups

    parallel_state_sp.initialize_sequence_parallel(size)
    groups.mpu = parallel_state_sp


def leave_groups() -> None:
    """Leave the group of all ranks, and those that share each sequence."""
    from deepspeed import comm
    from deepspeed.utils import groups

    groups.mpu = None
    comm.destroy_process_group()


def sequence_group() -> Any:
    """Return the group of the ranks that share this rank's sequences."""
    from deepspeed.utils import groups

    return groups._get_sequence_parallel_group()


def num_sequence_ranks() -> int:
    """Return how many ranks share each sequence."""
    from deepspeed.utils import groups

    return int(groups._get_sequence_parallel_world_size())


class SharedAttention:
    """transformers' attention of a name, with tokens exchanged for heads around it, among the ranks
    that share each sequence.

    DeepSpeed's own registration is for one number of samples, and the last micro-batch of an
    evaluation may have fewer; and it leaves out evaluation.

    read: deepspeed/runtime/sequence_parallel/ulysses_sp.py, register_with_transformers.
    """

    def __init__(self, name: str) -> None:
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

        self._name = name
        self._core = ALL_ATTENTION_FUNCTIONS[name]
        self._by_shape: dict[tuple[int, ...], Any] = {}
        self._alone = False
        ALL_ATTENTION_FUNCTIONS[name] = self

    def leave(self) -> None:
        """Give the name its own attention back."""
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

        ALL_ATTENTION_FUNCTIONS[self._name] = self._core

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Attend to this rank's own sequences inside the block, as in generation."""
        self._alone = True
        try:
            yield
        finally:
            self._alone = False

    def __call__(
        self, module: Any, query: Any, key: Any, value: Any, mask: Any, *inputs: Any, **options: Any
    ) -> Any:
        """Return the output and the weights; the mask is of this rank's tokens alone, and left out
        as DeepSpeed leaves it out."""
        if self._alone:
            return self._core(module, query, key, value, mask, *inputs, **options)
        samples, heads, _, size = query.shape
        shared = self._of(samples, heads, key.shape[1], size)
        groups = getattr(module, "num_key_value_groups", None)
        attended = shared(module, query, key, value, None, *inputs, **options)
        if groups is not None:
            module.num_key_value_groups = groups  # which it sets for the heads of a rank
        return attended

    def _of(self, samples: int, heads: int, key_value_heads: int, size: int) -> Any:
        """Return DeepSpeed's module for so many samples of such heads; it reads the number of
        layers to be debugged alone."""
        shape = samples, heads, key_value_heads, size
        if shape not in self._by_shape:
            from deepspeed.runtime.sequence_parallel.ulysses_sp import UlyssesSPAttentionHF

            self._by_shape[shape] = UlyssesSPAttentionHF(
                attn=self._core,
                batch_size=samples,
                attn_head_count=heads,
                attn_head_size=size,
                kv_head_count=key_value_heads,
                num_hidden_layers=1,
                process_group=sequence_group(),
                seq_length_is_variable=True,
            )
        return self._by_shape[shape]
