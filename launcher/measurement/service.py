"""Measured rates of this machine, for the planner: asked as JSON, answered as JSON.

``python -m launcher.measurement.service`` reads one line with the fields of
launcher/measurement/question.py:Question, and writes one answer with the parts of a Measurement
(planner/hardware/measured/measurement.py). Lines ``{"note": ...}`` before it show the progress.

Several ranks are processes that measure at once, each with its share of the cores.
"""

import json
import multiprocessing
import os
import socket
from datetime import timedelta
from typing import Any, TextIO

from launcher.measurement.question import Question
from launcher.run.answer_pipe import question_and_answer_pipes
from launcher.run.end_with_parent import end_with_parent
from planner.base.phrases import Phrase, as_data

LIMIT = timedelta(seconds=60)
"""Time after which a rank that waits for another one gives up."""


def main() -> None:
    questions, answers = question_and_answer_pipes()
    question = Question(**json.loads(questions.readline()))
    set_environment(question, cores=len(os.sched_getaffinity(0)))
    others = start_others(question) if question.ranks > 1 else []
    tell(
        {"note": as_data(Phrase("measuring {name}: loading PyTorch", name=question.name))}, answers
    )
    answer = run_rank(question, 0, answers)
    for process in others:
        process.join()
    tell(answer, answers)


def tell(content: dict[str, Any], answers: TextIO) -> None:
    """Write one line of JSON."""
    print(json.dumps(content), file=answers)


def set_environment(question: Question, *, cores: int) -> None:
    """Set what ranks of a run have (launcher/run/rank_commands.py) before PyTorch is loaded."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    if question.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        os.environ["OMP_NUM_THREADS"] = str(max(1, cores // question.ranks))
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    if question.ranks > 1:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            os.environ["MASTER_PORT"] = str(listener.getsockname()[1])


def start_others(question: Question) -> list[Any]:
    """Start all ranks but the first, which this process is."""
    context = multiprocessing.get_context("fork")  # nothing of PyTorch is loaded yet
    others = [
        context.Process(target=run_other, args=(question, rank), daemon=True)
        for rank in range(1, question.ranks)
    ]
    for process in others:
        process.start()
    return others


def run_other(question: Question, rank: int) -> None:
    """Run a rank whose answer is not needed."""
    end_with_parent()
    run_rank(question, rank, None)


def run_rank(question: Question, rank: int, answers: TextIO | None) -> dict[str, Any]:
    """Join the other ranks, if any, and measure with them."""
    import torch.distributed

    from launcher.measurement.rank import measured

    def say(what: str) -> None:
        if answers is not None:
            tell(
                {
                    "note": as_data(
                        Phrase("measuring {name}: {what}", name=question.name, what=what)
                    )
                },
                answers,
            )

    if question.ranks > 1:
        torch.distributed.init_process_group(
            "nccl" if question.device == "cuda" else "gloo",
            init_method=f"tcp://127.0.0.1:{os.environ['MASTER_PORT']}",
            rank=rank,
            world_size=question.ranks,
            timeout=LIMIT,
        )
    return measured(question, rank, say)


if __name__ == "__main__":
    main()
