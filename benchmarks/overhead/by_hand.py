"""Fine-tuning with trl as its documentation shows it, with the settings of a plan.

python -m benchmarks.overhead.by_hand SETTINGS RESULT

It uses nothing of this project: the launcher is compared with it.
"""

import json
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from datasets import load_dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer


class Clock(TrainerCallback):  # type: ignore[misc]
    def __init__(self) -> None:
        self.ended_at: list[float] = []
        self.losses: list[float] = []

    def on_log(self, _args: Any, _state: Any, _control: Any, logs: Any = None, **_: Any) -> None:
        if "loss" in logs:
            self.ended_at.append(time.perf_counter())
            self.losses.append(logs["loss"])


def main() -> None:
    settings = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    model = AutoModelForCausalLM.from_pretrained(settings["model"], dtype=settings["dtype"])
    tokenizer = AutoTokenizer.from_pretrained(settings["model"])
    lora = settings["lora"]
    clock = Clock()
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(
            output_dir=settings["output"],
            use_cpu=settings["on_cpu"],
            bf16=True,
            per_device_train_batch_size=settings["micro_batch_size"],
            gradient_accumulation_steps=1,
            max_steps=settings["steps"],
            max_length=settings["sequence_length"],
            learning_rate=settings["learning_rate"],
            weight_decay=settings["weight_decay"],
            max_grad_norm=settings["max_grad_norm"],
            optim=settings["optimizer"],
            lr_scheduler_type=settings["schedule"],
            warmup_steps=settings["warmup"],
            gradient_checkpointing=False,
            dataloader_pin_memory=not settings["on_cpu"],
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            seed=settings["seed"],
        ),
        train_dataset=load_dataset("json", data_files=settings["data"], split="train"),
        processing_class=tokenizer,
        peft_config=None if lora is None else LoraConfig(task_type="CAUSAL_LM", **lora),
        callbacks=[clock],
    )
    trainer.train()
    times = [end - start for start, end in pairwise(clock.ended_at)]
    Path(sys.argv[2]).write_text(
        json.dumps({"step_times_s": times, "losses": clock.losses}), encoding="utf-8"
    )


if __name__ == "__main__":
    main()
