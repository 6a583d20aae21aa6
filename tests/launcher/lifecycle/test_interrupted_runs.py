"""Runs that are interrupted go on as if nothing had happened: bit by bit, on the CPU."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from launcher.run.checkpoints import last_whole
from tests.launcher.forked import Launcher
from tests.launcher.interrupted import DROPOUT, EVALUATION, SIX_STEPS, evaluations, resume, rows
from tests.launcher.launching import Finished, write_plan
from tests.launcher.plans import SIXTEEN_BIT, TWO_RANKS, full, parallel
from tests.torchao import NEEDS_TORCHAO

NF4 = {"quant_type": "nf4", "double_quant": True}


def result(done: Finished) -> bytes:
    found = [*done.run.glob("*/adapter_model.safetensors"), *done.run.glob("model/*.safetensors")]
    return found[0].read_bytes()


METHODS: dict[str, dict[str, Any]] = {
    "qlora": {"method": "qlora", "quantization": NF4, "adapter": DROPOUT},
    "qlora-experts": {
        "method": "qlora",
        "quantization": {**NF4, "experts": True},
        "adapter": {
            "rank": 8,
            "alpha": 16,
            "dropout": 0.0,
            "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"],
            "target_parameters": ["experts.gate_up_proj", "experts.down_proj"],
        },
        "activation_checkpointing": True,
        "model__model_type": "mixtral",
        "model__num_params": 255_040,
        "model__trainable_params": 39_936,
    },
    "lora": {
        "adapter": DROPOUT,
        "optimizer__name": "schedule_free_adamw",
        "training": {**SIX_STEPS, "neftune_noise_alpha": 5.0, "evaluation": EVALUATION},
        "data__validation_fraction": 0.25,
    },
    "pissa": {
        "adapter": {**DROPOUT, "init": "pissa_niter_2"},
        "parallel": parallel("fsdp"),
        "precision": SIXTEEN_BIT,
        **TWO_RANKS,
    },
    "vera": {
        "adapter": {**DROPOUT, "vera": True},
        "parallel": parallel("ddp"),
        "model__trainable_params": 1_080,
        "training": {**SIX_STEPS, "evaluation": EVALUATION},
        "data__validation_fraction": 0.25,
        **TWO_RANKS,
    },
    "full": full(optimizer__name="apollo_adamw"),
    "full-8bit": full(optimizer__name="adamw_torch_8bit"),
    "fsdp-4bit": full(
        optimizer__name="adamw_torch_4bit",
        parallel=parallel("fsdp"),
        precision=SIXTEEN_BIT,
        **TWO_RANKS,
    ),
    "zero2-8bit": full(
        optimizer__name="adamw_torch_8bit",
        parallel=parallel("zero2"),
        precision=SIXTEEN_BIT,
        **TWO_RANKS,
    ),
    "zero1": {"parallel": parallel("zero1"), "precision": SIXTEEN_BIT, **TWO_RANKS},
    "zero3": full(
        parallel=parallel("zero3"),
        precision=SIXTEEN_BIT,
        training={**SIX_STEPS, "evaluation": EVALUATION},
        data__validation_fraction=0.25,
        **TWO_RANKS,
    ),
    "shared-sequences": full(
        parallel={**parallel("zero3"), "sequence_parallel_size": 2},
        precision=SIXTEEN_BIT,
        training={**SIX_STEPS, "evaluation": EVALUATION},
        data__validation_fraction=0.25,
    ),
    "fsdp": full(
        parallel=parallel("fsdp"),
        precision=SIXTEEN_BIT,
        training={**SIX_STEPS, "evaluation": EVALUATION},
        data__validation_fraction=0.25,
        **TWO_RANKS,
    ),
    "fsdp-copies": full(
        parallel=parallel("fsdp", 4, copies=2),
        precision=SIXTEEN_BIT,
        training={**SIX_STEPS, "evaluation": EVALUATION},
        data__validation_fraction=0.25,
        batch__micro_batch_size=1,
        batch__gradient_accumulation_steps=1,
    ),
    "tensor": {
        "adapter": DROPOUT,
        "parallel": parallel("tensor"),
        "training": {**SIX_STEPS, "evaluation": EVALUATION},
        "data__validation_fraction": 0.25,
    },
    "fsdp-qlora": {
        "method": "qlora",
        "quantization": NF4,
        "adapter": DROPOUT,
        "parallel": parallel("fsdp"),
        "precision": SIXTEEN_BIT,
        "optimizer__name": "schedule_free_radam",
        **TWO_RANKS,
    },
}


LONG = ("fsdp-copies", "shared-sequences")
"""Methods that resume as another one does: their states are those of FSDP and of ZeRO-3."""
WITH_TORCHAO = [*NEEDS_TORCHAO, pytest.mark.long]
MARKS: dict[str, Any] = {
    **dict.fromkeys(LONG, pytest.mark.long),
    "full-8bit": WITH_TORCHAO,
    "fsdp-4bit": WITH_TORCHAO,
    "zero2-8bit": WITH_TORCHAO,
}


@pytest.mark.parametrize(
    "method", [pytest.param(each, marks=MARKS.get(each, ())) for each in METHODS]
)
def test_an_interrupted_run_goes_on_bit_by_bit(
    method: str,
    launcher: Launcher,
    tiny_checkpoint: Path,
    tiny_mixture: Path,
    folder: Path,
) -> None:
    """What a run leaves that is ended behind step 5: its newest checkpoint is of step 4, at the
    end of an epoch; that is torn, so it goes on from step 2, amid the first one."""
    changes = {"training": SIX_STEPS, **METHODS[method]}
    checkpoint = tiny_mixture if method == "qlora-experts" else tiny_checkpoint
    write_plan(folder, model__source=str(checkpoint), **changes)
    whole = launcher.run(folder)
    assert whole.code == 0, whole.errors
    expected, weights, looked_at = rows(whole), result(whole), evaluations(whole)
    assert [row[0] for row in expected] == [1, 2, 3, 4, 5, 6]

    (whole.run / "report.json").unlink()
    for path in ("adapter", "model"):
        shutil.rmtree(whole.run / path, ignore_errors=True)
    newest = whole.run / "checkpoints" / "checkpoint-4"
    kept = json.loads((newest / "trainer_state.json").read_text(encoding="utf-8"))
    assert kept["log_history"] == []  # which would grow with every step
    tear(newest)
    done = resume(launcher, folder)
    assert done.code == 0, done.errors
    assert done.attempts[-1]["from_step"] == 2
    assert rows(done) == expected
    assert result(done) == weights
    assert evaluations(done) == looked_at
    assert bool(looked_at) == (
        method in ("lora", "vera", "zero3", "shared-sequences", "fsdp", "fsdp-copies", "tensor")
    )


def tear(checkpoint: Path) -> None:
    """Cut its largest file short."""
    largest = max(checkpoint.rglob("*"), key=lambda path: path.stat().st_size)
    with largest.open("r+b") as file:
        file.truncate(largest.stat().st_size // 2)


def test_two_ranks_of_which_one_is_killed(
    launcher: Launcher, tiny_checkpoint: Path, folder: Path
) -> None:
    """All end quickly; what was trained goes on from the last checkpoint."""
    write_plan(
        folder,
        model__source=str(tiny_checkpoint),
        adapter=DROPOUT,
        optimizer__name="stable_adamw",
        parallel=parallel("ddp"),
        training=SIX_STEPS,
        **TWO_RANKS,
    )
    whole = launcher.run(folder)
    expected = rows(whole)
    shutil.rmtree(whole.run)

    launcher.fault = "kill@backward:4/1"
    killed = launcher.run(folder)
    assert killed.code == 1
    end = "rank 1 (backward of step 4) was killed by signal 9: the system ran out of memory?"
    assert killed.errors.splitlines()[0] == (
        f"error: training failed: {end}; step 2 is saved: --resume continues. "
        "The end of run/logs/rank-1.log:"
    )
    assert killed.attempts[-1]["ended"] == end
    launcher.fault = ""
    assert rows(resume(launcher, folder)) == expected


def test_stopped_by_a_signal_and_gone_on(
    launcher: Launcher, tiny_checkpoint: Path, folder: Path
) -> None:
    """Between two logged steps: the loss that was summed is not lost."""
    training = {"max_steps": 7, "logging_steps": 3, "save_steps": 100}
    write_plan(folder, model__source=str(tiny_checkpoint), adapter=DROPOUT, training=training)
    whole = launcher.run(folder)
    expected = rows(whole)
    assert [row[0] for row in expected] == [1, 3, 6, 7]
    shutil.rmtree(whole.run)

    launcher.stop_behind_step = 1
    stopped = launcher.run(folder)
    assert stopped.code == 128 + 15
    saved, _ = last_whole(stopped.run / "checkpoints")
    assert saved is not None
    assert saved.step < 7
    assert stopped.errors.splitlines()[-1] == (
        f"error: training was stopped by SIGTERM; step {saved.step} is saved: --resume continues"
    )
    launcher.stop_behind_step = None
    assert rows(resume(launcher, folder)) == expected


def test_a_run_needs_nothing_again_that_it_has_read(
    launcher: Launcher,
    tiny_checkpoint: Path,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Data, tokens and model may be deleted while it trains."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = shutil.copytree(tiny_checkpoint, folder / "model")
    write_plan(folder, model__source=str(model), training=SIX_STEPS)
    whole = launcher.run(folder)
    expected = rows(whole)
    shutil.rmtree(whole.run)

    def delete(_ranks: object) -> None:
        metrics = folder / "run" / "metrics.jsonl"
        if model.exists() and metrics.exists() and metrics.stat().st_size:
            for read in (model, tmp_path / "cache"):
                shutil.rmtree(read)
            (folder / "data.jsonl").unlink()

    launcher.meanwhile = delete
    done = launcher.run(folder)
    assert done.code == 0, done.errors
    assert not model.exists()
    assert rows(done) == expected
    assert (done.run / "adapter" / "adapter_model.safetensors").is_file()


def test_a_run_goes_on_without_the_tokens_it_kept(
    launcher: Launcher,
    tiny_checkpoint: Path,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Anybody may delete them: they are made again, and held to be the same."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_plan(folder, model__source=str(tiny_checkpoint), training=SIX_STEPS)
    whole = launcher.run(folder)
    expected = rows(whole)
    shutil.rmtree(whole.run)
    launcher.fault = "error@forward:4"
    run = launcher.run(folder).run
    launcher.fault = ""

    shutil.rmtree(tmp_path / "cache")
    data, inputs = folder / "data.jsonl", (run / "inputs.json").read_bytes()
    before = data.read_text(encoding="utf-8")
    data.write_text(before.replace("Fact", "Fiction"), encoding="utf-8")
    for _ in range(2):
        assert resume(launcher, folder).code == 2
    *_, refusal = (run / "logs" / "screen.log").read_text(encoding="utf-8").splitlines()
    assert refusal.startswith("error: run cannot be resumed: the data, the tokenizer or")
    assert (run / "inputs.json").read_bytes() == inputs

    data.write_text(before, encoding="utf-8")
    done = resume(launcher, folder)
    assert done.code == 0, done.errors
    assert rows(done) == expected
    assert [each["from_step"] for each in done.attempts] == [0, 2]
