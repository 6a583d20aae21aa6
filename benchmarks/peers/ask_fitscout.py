"""Run by the interpreter that has fitscout: settings on stdin, its estimates on stdout."""

import json
import sys
from typing import Any

from fitscout.memory.estimator import estimate_memory
from fitscout.model.introspect import inspect_model

GIB = 2**30


def ask(setting: dict[str, Any]) -> dict[str, int]:
    profile = inspect_model(setting["model"], dtype_bytes=setting["dtype_bytes"])
    memory = estimate_memory(profile, **setting["training"])
    return {
        "allocated": round((memory.total_gb - memory.overhead_gb) * GIB),
        "device_used": round(memory.total_gb * GIB),
    }


def answer(setting: dict[str, Any]) -> dict[str, object]:
    try:
        return {"predicted": ask(setting)}
    except ValueError as error:
        return {"refused": str(error)}


if __name__ == "__main__":
    json.dump([answer(setting) for setting in json.load(sys.stdin)], sys.stdout)
