"""Private parts of accelerate: how it wraps a model and an optimizer, and where it refuses to run.

read: accelerate 1.15.0. It is imported where it is needed: its import loads PyTorch.
"""

from collections.abc import Callable
from typing import Any

from launcher.compat.replacement import do_nothing

NO_PEER_ACCESS = "RTX 40"
"""Part of the name of cards without peer access to each other."""
PEER_ACCESS_DRIVER = "550.40.07"
"""First driver with which those cards report that; older ones claim peer access.

read: accelerate/utils/environment.py, check_cuda_p2p_ib_support.
"""
PEER_VARIABLES = ("NCCL_P2P_DISABLE", "NCCL_IB_DISABLE")
"""Variables without which accelerate refuses to start there.

read: accelerate/state.py, PartialState.__init__.
"""


def forward_in_fp32(model: Any) -> Callable[..., Any]:
    """Return the model's forward with its 16-bit outputs cast to fp32, as under autocast."""
    from accelerate.utils import convert_outputs_to_fp32

    forward: Callable[..., Any] = convert_outputs_to_fp32(model)
    return forward


def fsdp_on_the_cpu() -> None:
    """Let accelerate hand a model to FSDP on the CPU, too, where it knows of DDP alone.

    read: accelerate/state.py, AcceleratorState.__init__, which lists the devices.
    """
    from accelerate.state import AcceleratorState
    from accelerate.utils import DistributedType

    initialize = AcceleratorState.__init__

    def with_fsdp(state: Any, *inputs: Any, **options: Any) -> None:
        initialize(state, *inputs, **options)
        plugin = options.get("fsdp_plugin")
        if plugin is not None and state.distributed_type == DistributedType.MULTI_CPU:
            state.distributed_type, state.fsdp_plugin = DistributedType.FSDP, plugin

    AcceleratorState.__init__ = with_fsdp


def tensor_parallel_on_the_cpu() -> None:
    """Let accelerate take a model that is cut over ranks on the CPU, too, where it knows of GPUs
    alone.

    read: accelerate/parallelism_config.py, _validate_accelerator.
    """
    from accelerate import ParallelismConfig

    ParallelismConfig._validate_accelerator = do_nothing


def inner_optimizer(optimizer: Any) -> Any:
    """Return the optimizer that accelerate has wrapped."""
    return optimizer.optimizer


def read_in_groups(size: int) -> None:
    """Have the ranks of each group of so many read the same samples.

    read: accelerate/accelerator.py, prepare_data_loader.
    """
    from accelerate import accelerator

    prepare = accelerator.prepare_data_loader

    def in_groups(
        loader: Any, *inputs: Any, num_processes: int, process_index: int, **options: Any
    ) -> Any:
        return prepare(
            loader,
            *inputs,
            num_processes=num_processes // size,
            process_index=process_index // size,
            **options,
        )

    accelerator.prepare_data_loader = in_groups


def without_repeated(accelerator: Any, of_samples: Any) -> Any:
    """Return an evaluation's values of samples without those of samples that were read again to
    fill the last batch.

    read: accelerate/accelerator.py, gather_for_metrics.
    """
    state = accelerator.gradient_state
    cut = state.end_of_dataloader and state.remainder > 0
    return of_samples[: state.remainder] if cut else of_samples
