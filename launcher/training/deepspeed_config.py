"""DeepSpeed's configuration of a plan: pure, and complete, with no value left at ``"auto"``.

Key names and meanings: https://www.deepspeed.ai/docs/config-json/. Sizes are numbers of
elements, as in the plan, because they bound the buffers that the memory model counts.
"""

from typing import Any

from planner.plan.schema import ParallelSection, Plan, PrecisionSection, ZeroSection

NEVER = 10**9
"""Steps between two of DeepSpeed's own reports; the run's metrics are in ``metrics.jsonl``."""


def deepspeed_config(plan: Plan) -> dict[str, Any] | None:
    """Return the configuration; None if the plan does not use DeepSpeed."""
    zero = plan.parallel.zero
    if zero is None:
        return None
    config = {
        **_batch(plan),
        "train_micro_batch_size_per_gpu": plan.batch.micro_batch_size,
        "gradient_accumulation_steps": plan.batch.gradient_accumulation_steps,
        "gradient_clipping": plan.optimizer.max_grad_norm,
        **_precision(plan.precision),
        "zero_optimization": _zero_optimization(plan.parallel, zero),
        "zero_allow_untested_optimizer": True,
        "steps_per_print": NEVER,
        "wall_clock_breakdown": False,
    }
    if plan.parallel.offload != "none":
        # PyTorch's fused AdamW runs on the CPU too; DeepSpeed's own would have to be compiled.
        config["zero_force_ds_cpu_optimizer"] = False
    return config


def _batch(plan: Plan) -> dict[str, Any]:
    """Return the samples of a step; where ranks share sequences, how many do, and the dtype in
    which gradients are summed, the same as where they do not.

    DeepSpeed makes the samples of a step of the other numbers; transformers would make them of all
    ranks, and refuse any other number.

    read: transformers/integrations/deepspeed.py at 5.23.0, trainer_config_process;
    deepspeed/runtime/engine.py at 0.19.8, communication_data_type.
    """
    shared = plan.parallel.sequence_parallel_size
    if shared == 1:
        return {"train_batch_size": plan.batch.global_batch_size}
    return {
        "sequence_parallel_size": shared,
        "seq_parallel_communication_data_type": plan.precision.compute,
    }


def _precision(precision: PrecisionSection) -> dict[str, Any]:
    """Return the keys for 16-bit parameters, with an fp32 copy or without; none for plain fp32."""
    if precision.compute == "fp32":
        return {}
    keys = {"enabled": True}
    if precision.pure:
        keys |= {"bf16_master_weights_and_grads": True, "bf16_optimizer_states": True}
    return {precision.compute: keys}


def _zero_optimization(parallel: ParallelSection, zero: ZeroSection) -> dict[str, Any]:
    options: dict[str, Any] = {
        "stage": parallel.zero_stage,
        "overlap_comm": True,
        "contiguous_gradients": True,
        "reduce_scatter": True,
        "reduce_bucket_size": zero.reduce_bucket_size,
        "allgather_partitions": True,
        "allgather_bucket_size": zero.allgather_bucket_size,
    }
    if parallel.offload != "none":
        options["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    if parallel.offload == "all":
        options["offload_param"] = {"device": "cpu", "pin_memory": True}
    if parallel.zero_stage == 3:
        options |= {
            "stage3_prefetch_bucket_size": zero.prefetch_bucket_size,
            "stage3_max_live_parameters": zero.max_live_parameters,
            "stage3_max_reuse_distance": zero.max_live_parameters,
            "stage3_param_persistence_threshold": zero.param_persistence_threshold,
            "sub_group_size": zero.sub_group_size,
            "stage3_gather_16bit_weights_on_model_save": True,
        }
    return options
