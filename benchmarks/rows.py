"""Rows of a table of published measurements that an estimator can be asked about.

The table's wording is turned into one vocabulary here. An unknown word stays as it was written, so
that an estimator that cannot express it can say which word it was.
"""

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from planner.base.units import GIB, MIB

Quantity = Literal["allocated", "reserved", "device_used", "at_rest"]
QUANTITIES: tuple[Quantity, ...] = ("allocated", "reserved", "device_used")
TIERS = ("A1", "A2")
"""Tiers that count. A1: every setting, the length and the reading are known. A2: the reading or its
unit is not."""

COLUMN_KINDS: dict[str, Quantity] = {
    "allocated": "allocated",
    "reserved": "reserved",
    "nvidia-smi": "device_used",
}
NOTED: dict[Quantity, str] = {
    "allocated": "allocated",
    "reserved": "reserved",
    "device_used": "process",
    "at_rest": "at rest",
}
"""Words for further readings of the same run in its notes, as in ``process=7689 MiB``."""
UNITS = {"MiB": MIB, "GiB": GIB}

METHODS = {"full(pretrain)": "full"}
QUANTIZATIONS = {
    "": "none",
    "bnb.nf4": "nf4",
    "bnb nf4 (no double quant)": "nf4",
    "bnb.nf4-dq": "nf4-double",
    "bnb nf4 double quant": "nf4-double",
}
ALL_LINEAR = "q,k,v,o,gate,up,down"
TARGETS = {
    "attention (q,k,v,o)": "q,k,v,o",
    "q,k,v,o,mlp": ALL_LINEAR,
    "ALL linear": ALL_LINEAR,
    "all-linear": ALL_LINEAR,
}
OPTIMIZERS = {
    "AdamW": "adamw",
    "AdamW(torch)": "adamw",
    "AdamW(torch) fp32 LoRA": "adamw",
    "adamw_torch_fused": "adamw-fused",
    "AdamW(torch) bf16": "adamw-16bit",
    "AdamW(torch, bf16 params)": "adamw-16bit",
    "AdamW(torch, fused) bf16": "adamw-fused-16bit",
    "bnb PagedAdamW8bit": "adamw-8bit-paged",
}
PRECISIONS = {"bf16-true": "bf16", "bfloat16": "bf16"}
ATTENTIONS = {"sdpa(flash2)": "flash", "flash3": "flash"}
CHECKPOINTING = {"full": "yes"}
READ = {"unknown": "not stated", "": "not stated"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One measured run; ``readings`` holds bytes per GPU by reading."""

    id: str
    source: str
    """Prefix of the id, which rows of one origin share."""
    origin: str
    """Place where the source published this row."""
    model: str
    params: float | None
    method: str
    quantization: str
    lora_rank: int | None
    lora_targets: str
    optimizer: str
    precision: str
    micro_batch_size: int
    sequence_length: int
    checkpointing: str
    attention: str
    loss: str
    parallel: str
    ranks: int
    gradient_accumulation_steps: int
    gpu: str
    offload: str
    compiled: bool
    notes: str
    read: str
    """Reading in the source's words; ``readings`` lacks it if it is not one of ours."""
    readings: Mapping[Quantity, int]
    printed: float
    """Figure as printed, in ``unit``."""
    unit: str
    peak_bytes: int
    """Figure in bytes, with its unit taken literally."""
    throughput: float | None
    """Throughput as printed, in the source's unit."""


def read_rows(path: Path) -> list[Row]:
    """Return the rows of ``path`` with every setting given and the exact length known."""
    with path.open(encoding="utf-8", newline="") as file:
        return [parse_row(line) for line in csv.DictReader(file) if is_usable(line)]


def is_usable(line: Mapping[str, str]) -> bool:
    return (
        line["kind"] == "measured"
        and line["tier"] in TIERS
        and line["seq_kind"] == "exact"
        and bool(line["peak_gib_per_gpu"])
    )


def parse_row(line: Mapping[str, str]) -> Row:
    def word(column: str, known: Mapping[str, str]) -> str:
        return known.get(line[column], line[column])

    return Row(
        id=line["id"],
        source=line["id"].rpartition("-")[0],
        origin=line["source"],
        model=line["model"],
        params=float(line["params_b"]) * 1e9 if line["params_b"] else None,
        method=word("method", METHODS),
        quantization=word("quant", QUANTIZATIONS),
        lora_rank=int(line["lora_rank"]) if line["lora_rank"] else None,
        lora_targets=word("lora_targets", TARGETS),
        optimizer=word("optimizer", OPTIMIZERS),
        precision=word("precision", PRECISIONS),
        micro_batch_size=int(line["micro_batch"]),
        sequence_length=int(line["seq_len"]),
        checkpointing=word("grad_ckpt", CHECKPOINTING),
        attention=word("attention", ATTENTIONS),
        loss=line["loss_kernel"],
        parallel=line["parallel"],
        ranks=int(line["n_gpus"] or 1),
        gradient_accumulation_steps=int(line["grad_accum"] or 1),
        gpu=line["gpu_type"],
        offload=line["offload"],
        compiled="compile" in line["notes"],
        notes=line["notes"],
        read=word("mem_kind", READ),
        readings=readings(line),
        printed=float(line["peak_mem_gb"]),
        unit=line["unit"],
        peak_bytes=round(float(line["peak_gib_per_gpu"]) * GIB),
        throughput=float(line["throughput"]) if line.get("throughput") else None,
    )


def readings(line: Mapping[str, str]) -> dict[Quantity, int]:
    """Return the bytes by reading: those of the row's column and those in its notes."""
    found: dict[Quantity, int] = {}
    for quantity, name in NOTED.items():
        match = re.search(rf"(?<![\w/]){name}=([\d.]+) ([MG]iB)", line["notes"])
        if match:
            found[quantity] = round(float(match[1]) * UNITS[match[2]])
    kind = COLUMN_KINDS.get(line["mem_kind"])
    if kind is not None:
        found[kind] = round(float(line["peak_gib_per_gpu"]) * GIB)
    return found
