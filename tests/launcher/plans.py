"""Plans for the tests: a small valid one, and changes to it by dotted key."""

from typing import Any

from msgspec import convert

from planner.base.strict_yaml import dump_yaml
from planner.plan.schema import Plan

ZERO_SIZES = {
    "reduce_bucket_size": 100_000,
    "allgather_bucket_size": 100_000,
    "prefetch_bucket_size": 10_000,
    "max_live_parameters": 100_000,
    "param_persistence_threshold": 100,
    "sub_group_size": 1_000_000_000,
}
SIXTEEN_BIT = {"compute": "bf16", "frozen": "bf16", "trainable": "bf16", "master": "fp32"}
IN_FP32 = {"compute": "fp32", "frozen": "fp32", "trainable": "fp32", "master": None}
STAGES = {"single": 0, "ddp": 0, "zero1": 1, "zero2": 2, "zero3": 3, "fsdp": 0, "tensor": 0}


def plan_content(**changes: Any) -> dict[str, Any]:
    """LoRA on one CPU process; ``section__key=value`` changes it."""
    content: dict[str, Any] = {
        "schema_version": 1,
        "model": {
            "name": "tiny",
            "source": "checkpoints/tiny",
            "model_type": "llama",
            "num_params": 107_072,
            "trainable_params": 8_192,
        },
        "hardware": {
            "device": "cpu",
            "gpu": "cpu",
            "device_name": "CPU",
            "capacity_bytes": 16 * 2**30,
            "budget_bytes": 15 * 2**30,
        },
        "method": "lora",
        "adapter": {"rank": 4, "alpha": 8, "dropout": 0.0, "target_modules": "all-linear"},
        "quantization": None,
        "precision": {"compute": "bf16", "frozen": "bf16", "trainable": "fp32", "master": None},
        "batch": {
            "micro_batch_size": 2,
            "gradient_accumulation_steps": 2,
            "global_batch_size": 4,
            "sequence_length": 128,
        },
        "parallel": parallel("single"),
        "activation_checkpointing": False,
        "attention": "sdpa",
        "loss": "fused",
        "optimizer": {
            "name": "adamw_torch_fused",
            "learning_rate": 0.002,
            "weight_decay": 0.0,
            "max_grad_norm": 1.0,
        },
        "schedule": {"kind": "cosine", "warmup_ratio": 0.0},
        "data": {"source": "data.jsonl"},
        "training": {"max_steps": 4},
        "output": {"directory": "runs/tiny-lora"},
        "prediction": {
            "peak_phase": "backward",
            "peak_allocated_bytes": 40 * 2**20,
            "low_bytes": 38 * 2**20,
            "high_bytes": 44 * 2**20,
            "host_ram_bytes": 600 * 2**20,
            "disk_bytes": 2**20,
            "checkpoint_bytes": 0,
            "step_time_s": None,
            "tokens_per_second": None,
            "phases": {
                "load": {"weights": 20 * 2**20},
                "forward": {"weights": 20 * 2**20, "activations": 15 * 2**20},
                "backward": {"weights": 20 * 2**20, "activations": 20 * 2**20},
                "optimizer_step": {"weights": 20 * 2**20},
                "save": {"weights": 20 * 2**20},
            },
        },
        "fallbacks": [],
    }
    for dotted, value in changes.items():
        *sections, key = dotted.split("__")
        target = content
        for section in sections:
            target = target[section]
        target[key] = value
    return content


def parallel(
    strategy: str, ranks: int | None = None, *, offload: str = "none", copies: int = 1
) -> dict[str, Any]:
    ranks = ranks if ranks is not None else 1 if strategy == "single" else 2
    return {
        "strategy": strategy,
        "zero_stage": STAGES[strategy],
        "offload": offload,
        "num_nodes": 1,
        "gpus_per_node": ranks,
        "world_size": ranks,
        "copies": copies,
        "zero": ZERO_SIZES if STAGES[strategy] else None,
    }


def nodes(count: int, gpus_per_node: int = 1, **changes: Any) -> dict[str, Any]:
    """The changes that spread it over so many nodes, two samples a rank."""
    ranks = count * gpus_per_node
    return {
        "parallel": {**parallel("ddp", ranks), "num_nodes": count, "gpus_per_node": gpus_per_node},
        "batch__gradient_accumulation_steps": 1,
        "batch__global_batch_size": 2 * ranks,
        **changes,
    }


TWO_RANKS: dict[str, Any] = {"batch__gradient_accumulation_steps": 1}
"""Keeps the global batch of one rank that accumulates twice."""


def full(**changes: Any) -> dict[str, Any]:
    """The changes that make it full fine-tuning with fp32 parameters."""
    return {
        "method": "full",
        "adapter": None,
        "precision": {"compute": "bf16", "frozen": "fp32", "trainable": "fp32", "master": None},
        "model__trainable_params": 107_072,
        **changes,
    }


def plan(**changes: Any) -> Plan:
    return convert(plan_content(**changes), Plan)


def plan_text(**changes: Any) -> str:
    return dump_yaml(plan_content(**changes))
