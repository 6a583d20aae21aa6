"""Ranks of many plans from one process: it imports the training stack once, and forks.

bitsandbytes asks the card for its capability when it is imported. PyTorch refuses a card that was
asked before a fork; a simulated one is memory of this process alone, and the child has its own.
The machine's file is read again for each plan, since its cards may have another size. Reads a JSON
object a line (folder of the plan, ranks, seconds, what comes between steps) and answers with the
exit codes of the ranks; None for one that did not end.
"""

import ctypes
import json
import logging
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import accelerate.utils
import bitsandbytes
import peft
import torch
import transformers
import trl.trainer.utils

import launcher.rehearsal.simulated_rank as rank_module
from launcher.rehearsal.phases import Between
from planner.base.errors import UserError

LOADED = (accelerate, bitsandbytes, peft, torch, transformers, trl)
LOOK_SECONDS = 0.05


def run(question: dict[str, Any]) -> list[int | None]:
    """Return the exit codes of all ranks of a plan; the rest ends with the first that fails."""
    folder, count = Path(question["folder"]), question["ranks"]
    children = {rank: _forked(folder, rank, count, question["between"]) for rank in range(count)}
    codes: dict[int, int | None] = dict.fromkeys(children)
    deadline = time.monotonic() + question["seconds"]
    while any(code is None for code in codes.values()) and time.monotonic() < deadline:
        for rank in (rank for rank, code in codes.items() if code is None):
            ended, status = os.waitpid(children[rank], os.WNOHANG)
            if ended:
                codes[rank] = os.waitstatus_to_exitcode(status)
        if any(codes.values()):
            break
        time.sleep(LOOK_SECONDS)
    for rank in (rank for rank, code in codes.items() if code is None):
        os.kill(children[rank], signal.SIGKILL)
        os.waitpid(children[rank], 0)
    return list(codes.values())


def _forked(folder: Path, rank: int, count: int, between: Between) -> int:
    child = os.fork()
    if child:
        return child
    torch.cuda._is_in_bad_fork = lambda: False
    ctypes.CDLL("libcuda.so.1").simulated_read_again()
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    os.environ.update({name: str(value) for name, value in places.items()})
    os.environ.update({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"})
    with (folder / f"rank-{rank}.err").open("wb") as log:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(log.fileno(), stream.fileno())
    os._exit(_as_rank(folder, between))


def _as_rank(folder: Path, between: Between) -> int:
    try:
        rank_module.main(folder / "plan.yaml", folder, between)
    except UserError as error:
        print(error, file=sys.stderr, flush=True)
        return error.exit_code
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        return 1
    return 0


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), flush=True)
