"""A measured row in the words of each peer, or the reason why the peer cannot express it.

The meaning of a peer's numbers was read in its published source, at the version named here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from benchmarks.rows import ALL_LINEAR, Quantity, Row
from planner.base.errors import UnknownNameError
from planner.hardware.cards import load_gpu
from planner.hardware.cluster import GpuSpec

Evidence = Literal["independent", "held out", "fitted", "assumed"]
"""What a row proves about a peer.

``fitted``: its constants come from this measurement or one of the same series. ``held out``:
measured by its author on the same card and kept out of the fit. ``assumed``: the peer has no
option for a setting of this row, so its own assumption stands in.
"""


class NotExpressibleError(Exception):
    """An error for a row that a peer cannot express; the message is the reason, the same for
    similar rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    name: str
    requirement: str
    script: str
    model_key: str
    model_by: Literal["hub_id", "directory"]
    compared: Mapping[Quantity, str]
    """Sum of the peer's numbers that is compared with each reading of a row, and why."""
    notes: str
    express: Callable[[Row], dict[str, Any]]
    evidence: Callable[[Row], Evidence]


def check_common(row: Row) -> None:
    """Raise for what no peer can express: all of them plan one GPU and the stock loss."""
    if not row.readings:
        raise NotExpressibleError(f"reading: {row.read}")
    if row.parallel != "single":
        raise NotExpressibleError("more than one GPU")
    if row.offload not in ("none", "optimizer paged"):
        raise NotExpressibleError("offload to host memory")
    if row.compiled:
        raise NotExpressibleError("compiled model")
    known(row.method, ("full", "lora", "qlora"), "method")
    if not row.loss.startswith("standard"):
        raise NotExpressibleError(f"loss: {row.loss}")
    quantizations = ("nf4", "nf4-double") if row.method == "qlora" else ("none",)
    known(row.quantization, quantizations, "quantization")
    known(row.checkpointing, ("yes", "no"), "checkpointing")
    known(row.precision, ("bf16", "fp16", "fp32"), "precision")


def known(word: str, words: tuple[str, ...], setting: str) -> str:
    if word not in words:
        raise NotExpressibleError(f"{setting}: {word or 'not stated'}")
    return word


def translated(word: str, words: Mapping[str, str], setting: str) -> str:
    return words[known(word, tuple(words), setting)]


CARDS = {
    "a10g-24gb": "a10g",
    "a100-sxm4-40gb": "a100-sxm-40gb",
    "a100-sxm4-80gb": "a100-sxm-80gb",
    "tesla-v100-sxm2-16gb": "v100-sxm2-16gb",
}


def card(row: Row) -> GpuSpec:
    name = row.gpu.lower().replace(" ", "-")
    try:
        return load_gpu(CARDS.get(name, name))
    except UnknownNameError:
        raise NotExpressibleError(f"card: {row.gpu or 'not stated'}") from None


FITCHECK_OPTIMIZERS = {"adamw": "adamw", "adamw-fused": "adamw", "adamw-8bit-paged": "adam8bit"}
FITCHECK_TARGETS = {"q,v": "qv", "q,k,v,o": "qkvo", ALL_LINEAR: "qkvo+mlp"}
MODULES = {
    "qv": ["q_proj", "v_proj"],
    "qkvo": ["q_proj", "k_proj", "v_proj", "o_proj"],
    "qkvo+mlp": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
}


def fitcheck_setting(row: Row) -> dict[str, Any]:
    """Return the arguments of ``TrainingConfig`` and ``get_gpu`` in fitcheck 0.3.1."""
    check_common(row)
    training: dict[str, Any] = {
        "precision": row.precision,
        "quantization": "none" if row.quantization == "none" else "nf4",
        "double_quant": row.quantization == "nf4-double",
        "optimizer": translated(row.optimizer, FITCHECK_OPTIMIZERS, "optimizer"),
        "batch_size": row.micro_batch_size,
        "seq_len": row.sequence_length,
        "lora_rank": row.lora_rank,
        "grad_checkpoint": row.checkpointing == "yes",
        "flash_attn": known(row.attention, ("eager", "sdpa", "flash"), "attention") != "eager",
    }
    if row.method != "full":
        training["lora_targets"] = MODULES[
            translated(row.lora_targets, FITCHECK_TARGETS, "LoRA targets")
        ]
    gpu = card(row)
    measured_card = gpu.name == "t4"
    return {
        "training": training,
        "gpu": "t4" if measured_card else gpu.name,
        "vram_mib": None if measured_card else gpu.total_mib,
    }


def fitcheck_evidence(row: Row) -> Evidence:
    if row.source != "fitcheck":
        return "independent"
    return "held out" if "/final-t4-" in row.origin else "fitted"


CANIFINETUNE_OPTIMIZERS = {
    "adamw": "adamw_torch",
    "adamw-fused": "adamw_torch_fused",
    "adamw-16bit": "adamw_torch",
    "adamw-fused-16bit": "adamw_torch_fused",
    "adamw-8bit-paged": "paged_adamw_8bit",
}
CANIFINETUNE_SCOPES = {"q,v": "conservative", "q,k,v,o": "attention", ALL_LINEAR: "all_linear"}
CANIFINETUNE_ATTENTIONS = {"eager": "eager", "sdpa": "sdpa", "flash": "flash_attention_2"}
CANIFINETUNE_QUANTIZATIONS = {"none": "none", "nf4": "nf4", "nf4-double": "nf4_double_quant"}


def canifinetune_setting(row: Row) -> dict[str, Any]:
    """Return the arguments of ``EstimateRequest`` in canifinetune 0.4.1."""
    check_common(row)
    setting: dict[str, Any] = {
        "method": row.method,
        "base_dtype": row.precision,
        "quantization": CANIFINETUNE_QUANTIZATIONS[row.quantization],
        "optimizer": translated(row.optimizer, CANIFINETUNE_OPTIMIZERS, "optimizer"),
        "micro_batch_size": row.micro_batch_size,
        "seq_len": row.sequence_length,
        "gradient_checkpointing": row.checkpointing == "yes",
        "attention_implementation": translated(row.attention, CANIFINETUNE_ATTENTIONS, "attention"),
        "gpu_vram_gb": card(row).total_mib / 1024,
    }
    if row.method != "full":
        setting["lora_rank"] = row.lora_rank
        setting["lora_target_scope"] = translated(
            row.lora_targets, CANIFINETUNE_SCOPES, "LoRA targets"
        )
    return setting


def canifinetune_evidence(row: Row) -> Evidence:
    return "fitted" if row.source == "canift" else "independent"


FITSCOUT_OPTIMIZERS = {"adamw": "32-bit", "adamw-fused": "32-bit", "adamw-8bit-paged": "8-bit"}


def fitscout_setting(row: Row) -> dict[str, Any]:
    """Return the arguments of ``inspect_model`` and ``estimate_memory`` in fitscout 0.1.1."""
    check_common(row)
    optimizer = translated(row.optimizer, FITSCOUT_OPTIMIZERS, "optimizer")
    training: dict[str, Any] = {
        "method": row.method,
        "micro_batch": row.micro_batch_size,
        "seq_len": row.sequence_length,
        "grad_ckpt": row.checkpointing == "yes",
        "opt_8bit": optimizer == "8-bit",
    }
    if row.method != "full":
        training["lora_rank"] = row.lora_rank
    return {"dtype_bytes": 4 if row.precision == "fp32" else 2, "training": training}


def fitscout_evidence(row: Row) -> Evidence:
    """Return the evidence of a row for fitscout, which has no LoRA targets but q and v, no
    attention but eager, and no block scales."""
    own = row.lora_targets in ("", "q,v") and row.attention == "eager"
    return "independent" if own and row.quantization == "none" else "assumed"


PEERS = (
    Peer(
        name="fitcheck",
        requirement="fitcheck-llm==0.3.1",
        script="ask_fitcheck.py",
        model_key="model",
        model_by="hub_id",
        compared={
            "allocated": "total_mib less overhead_mib: its five tensor formulas",
            "reserved": "total_mib less the base_context_mib of its overhead profile",
            "device_used": "total_mib: tensors, allocator and CUDA context of the process",
        },
        notes=(
            "Its overhead was fitted on a Tesla T4; on other cards it adds 500 MiB and 5 %. "
            "The parameter count is the one it derives from config.json."
        ),
        express=fitcheck_setting,
        evidence=fitcheck_evidence,
    ),
    Peer(
        name="canifinetune",
        requirement="canifinetune==0.4.1",
        script="ask_canifinetune.py",
        model_key="model_id",
        model_by="directory",
        compared={
            "allocated": (
                "total_estimated_gb less safety_margin_gb and cuda_overhead_gb: what its own "
                "calibration fits to max_memory_allocated"
            ),
            "reserved": (
                "total_estimated_gb less safety_margin_gb: its measurement_target is the peak "
                "reserved, the margin apart"
            ),
        },
        notes=(
            "Its coefficients were developed on the RTX 4080 rows. Its overhead is 8 % of the card."
        ),
        express=canifinetune_setting,
        evidence=canifinetune_evidence,
    ),
    Peer(
        name="fitscout",
        requirement="fitscout==0.1.1",
        script="ask_fitscout.py",
        model_key="model",
        model_by="directory",
        compared={
            "allocated": "total_gb less overhead_gb, which is 1.5 GiB for the CUDA context",
            "device_used": "total_gb, uncalibrated and without its margin of 20 %",
        },
        notes=(
            "It has no option for LoRA targets (always q and v), attention (always eager) or the "
            "scales of NF4; rows that differ are marked as assumed. Its own calibration holds "
            "total_gb, context and all, against max_memory_allocated."
        ),
        express=fitscout_setting,
        evidence=fitscout_evidence,
    ),
)
