"""Machines and requests for the tests, without touching this machine's hardware."""

from typing import Any

from planner.base.units import GIB, MIB
from planner.decision.request import Request
from planner.hardware.cards import load_gpu
from planner.hardware.cluster import Accelerator, Cluster
from planner.models.model_presets import load_model
from planner.workload.rules import Combination

CONTEXT_BYTES = 560 * MIB
SMALL_LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}
"""The ``config.json`` of SmolLM2-135M, as far as a plan needs it."""


def cards(count: int, gib: int, *, speed: str | None = None, in_use_gib: int = 0) -> Cluster:
    """``count`` cards of ``gib`` GiB whose speed is that of a named card, or unknown."""
    accelerator = Accelerator(
        label=f"{gib}G",
        device_name=f"{gib} GiB card",
        nominal_gib=gib,
        capacity_bytes=gib * GIB,
        in_use_bytes=in_use_gib * GIB,
        context_bytes=CONTEXT_BYTES,
        speed=load_gpu(speed) if speed is not None else None,
    )
    link: Any = "pcie" if count > 1 else "none"
    return Cluster(device="cuda", accelerator=accelerator, gpus_per_node=count, link=link)


def request(cluster: Cluster, *, model: str = "chatglm3-6b-base", **pinned: Any) -> Request:
    return Request(model=load_model(model), cluster=cluster, **pinned)


def combination(**changes: Any) -> Combination:
    """LoRA of Llama on one GPU, as the rules see it, with the given changes."""
    properties: dict[str, Any] = {
        "method": "lora",
        "strategy": "single",
        "offload": "none",
        "optimizer": "adamw_torch_fused",
        "device": "cuda",
        "model_type": "llama",
        "quant_type": None,
        "attention": "sdpa",
        "compute": "bf16",
        "packing": False,
        "pure": False,
        "adapts_experts": False,
        "changes_base": False,
        "trains_vectors": False,
        "several_nodes": False,
        "dora": False,
        "even_parts": True,
        "shares_sequences": False,
        "tiled_mlp": False,
        "compute_capability": None,
    }
    return Combination(**{**properties, **changes})
