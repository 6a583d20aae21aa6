"""Run by the interpreter that has canifinetune: settings on stdin, its estimates on stdout."""

import json
import sys
from typing import Any

from canifinetune.estimator import EstimateRequest, estimate

GIB = 2**30


def ask(setting: dict[str, Any]) -> dict[str, int]:
    memory = estimate(EstimateRequest(use_network=False, **setting)).memory
    reserved = memory.total_estimated_gb - memory.safety_margin_gb
    return {
        "allocated": round((reserved - memory.cuda_overhead_gb) * GIB),
        "reserved": round(reserved * GIB),
    }


def answer(setting: dict[str, Any]) -> dict[str, object]:
    try:
        return {"predicted": ask(setting)}
    except ValueError as error:
        return {"refused": str(error)}


if __name__ == "__main__":
    json.dump([answer(setting) for setting in json.load(sys.stdin)], sys.stdout)
