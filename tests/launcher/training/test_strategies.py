"""One plan, trained by every strategy: the same losses, and the engine that was planned.

A few steps of a model of a hundred thousand parameters on the CPU, two gloo ranks.
"""

import math
from pathlib import Path
from typing import Any

import pytest

from tests.launcher.launching import Finished, launch, write_plan, write_samples
from tests.launcher.plans import SIXTEEN_BIT, TWO_RANKS, full, parallel

pytest.importorskip("trl")
pytest.importorskip("deepspeed")

from tests.launcher.forked import Launcher

NF4 = {"quant_type": "nf4", "double_quant": True}
PURE_BF16 = {"compute": "bf16", "frozen": "bf16", "trainable": "bf16", "master": None}

SAME_SUMS = 1e-3
"""Relative. The same samples in another order of addition, under bf16 autocast."""
SIXTEEN_BIT_WEIGHTS = 5e-3
"""Relative. DeepSpeed's 16-bit weights round what fp32 weights keep; the losses here are
near 5, so this is a fortieth of what they fall by."""


def train(folder: Path, checkpoint: Path, **changes: Any) -> Finished:
    write_inputs(folder, checkpoint, **changes)
    done = Launcher().run(folder)
    assert done.code == 0, done.errors
    return done


def write_inputs(folder: Path, checkpoint: Path, **changes: Any) -> None:
    write_samples(folder)
    write_plan(folder, model__source=str(checkpoint), **changes)


@pytest.fixture(scope="module")
def one_process(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Full fine-tuning in one process, two accumulation steps: what all others must equal.

    Launched from the command line; all others are forked.
    """
    folder = tmp_path_factory.mktemp("single")
    write_inputs(folder, tiny_checkpoint, **full())
    done = launch(folder)
    assert done.code == 0, done.errors
    return done


@pytest.fixture(scope="module")
def one_process_lora(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return train(tmp_path_factory.mktemp("single-lora"), tiny_checkpoint)


def test_one_process(one_process: Finished) -> None:
    assert one_process.losses[-1] < one_process.losses[0] - 0.3
    setup = one_process.read("report.json")["setup"]
    assert setup["engine"] == "torch"
    assert setup["trainable_dtypes"] == ["float32"]
    assert setup["autocast_dtype"] == "bfloat16"


@pytest.mark.long
@pytest.mark.parametrize(
    "name",
    [
        *("adamw_torch", "adafactor", "sgd", "rmsprop", "adagrad"),
        *("stable_adamw", "apollo_adamw"),
        *("schedule_free_adamw", "schedule_free_radam", "schedule_free_sgd"),
    ],
)
def test_other_optimizers_train(name: str, tiny_checkpoint: Path, tmp_path: Path) -> None:
    method = full() if name == "apollo_adamw" else {}
    changes = {"optimizer__name": name, "optimizer__learning_rate": 0.01}
    done = train(tmp_path, tiny_checkpoint, **method | changes)
    assert done.losses[-1] < done.losses[0]


def test_a_run_leaves_all_its_files(one_process: Finished) -> None:
    names = {path.name for path in one_process.run.iterdir() if not path.name.startswith(".")}
    assert names == {
        *("plan.yaml", "environment.json", "inputs.json", "metrics.jsonl", "report.json"),
        *("attempts.json", "logs", "model"),
    }
    assert {path.name for path in (one_process.run / "model").iterdir()} >= {
        *("config.json", "model.safetensors", "tokenizer.json"),
    }
    logs = {path.name for path in (one_process.run / "logs").iterdir()}
    assert logs == {"launcher.log", "prepare.log", "rank-0.log"}


def test_metrics_have_a_row_a_step(one_process: Finished) -> None:
    assert [row["step"] for row in one_process.metrics] == [1, 2, 3, 4]
    for row in one_process.metrics:
        assert {"loss", "learning_rate", "tokens_per_second"} <= set(row)
        assert row["tokens_per_second"] > 0


def test_the_learning_rate_falls_along_a_cosine(one_process: Finished) -> None:
    rates = [row["learning_rate"] for row in one_process.metrics]
    assert rates == pytest.approx([0.001 * (1 + math.cos(math.pi * n / 4)) for n in range(4)])


def test_the_report_puts_predicted_beside_measured(one_process: Finished) -> None:
    report = one_process.read("report.json")
    assert report["status"] == "finished"
    assert report["predicted"]["peak_allocated_bytes"] == 40 * 2**20
    measured = report["measured"]
    assert 200 * 2**20 < measured["peak_resident_bytes"] < 2 * 2**30
    assert measured["step_time_s"] > 0
    assert len(measured["ranks"]) == 1


def test_the_data_is_counted(one_process: Finished) -> None:
    data = one_process.read("inputs.json")["data"]
    assert (data["num_samples"], data["num_truncated"], data["num_dropped"]) == (16, 0, 0)
    assert data["num_answer_tokens"] == 16 * len("Fact 0?")  # with the end mark


def test_packed_samples_train(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """With a part kept for validation, under the model's own loss."""
    data = {"source": "data.jsonl", "validation_fraction": 0.2}
    done = train(tmp_path, tiny_checkpoint, batch__packing=True, loss="standard", data=data)
    assert done.losses[-1] < done.losses[0]
    summary = done.read("report.json")["inputs"]["data"]
    assert summary["num_samples"] + summary["num_validation"] == 16
    assert summary["num_rows"] < summary["num_samples"]


def test_the_screen_is_free_of_library_noise(one_process: Finished) -> None:
    lines = one_process.errors.splitlines()
    assert lines[0].startswith("data: data.jsonl (messages): 16 samples")
    assert lines[1].startswith("data: tokens per sample: half have at most")
    assert lines[2].startswith("data: sample 1; the loss counts what is between")
    assert lines[6:8] == [">>>Fact 0<|end|><<<", ""]
    assert lines[8] == "loading tiny"
    assert [line.split("  ")[0] for line in lines[9:]] == [f"step {n}/4" for n in range(1, 5)]
    assert "peak resident per process" in one_process.output


@pytest.mark.parametrize(
    ("strategy", "engine_class", "zero_optimizer"),
    [
        ("ddp", "DistributedDataParallel", None),
        ("zero1", "DeepSpeedEngine", "DeepSpeedZeroOptimizer"),
        ("zero2", "DeepSpeedEngine", "DeepSpeedZeroOptimizer"),
        ("zero3", "DeepSpeedEngine", "DeepSpeedZeroOptimizer_Stage3"),
        ("fsdp", "FSDPLlamaForCausalLM", None),
    ],
)
def test_two_ranks_train_the_same_plan(
    one_process: Finished,
    tiny_checkpoint: Path,
    tmp_path: Path,
    strategy: str,
    engine_class: str,
    zero_optimizer: str | None,
) -> None:
    precision = {} if strategy == "ddp" else {"precision": SIXTEEN_BIT}
    done = train(
        tmp_path,
        tiny_checkpoint,
        **full(parallel=parallel(strategy), **TWO_RANKS, **precision),
    )
    tolerance = SAME_SUMS if strategy == "ddp" else SIXTEEN_BIT_WEIGHTS
    assert done.losses == pytest.approx(one_process.losses, rel=tolerance)
    report = done.read("report.json")
    assert report["setup"]["engine_class"] == engine_class
    assert report["setup"]["zero_optimizer_class"] == zero_optimizer
    assert report["setup"]["zero_stage"] == parallel(strategy)["zero_stage"]
    assert [rank["rank"] for rank in report["measured"]["ranks"]] == [0, 1]
    assert (done.run / "deepspeed.json").exists() == (zero_optimizer is not None)
    assert tensors(done.run / "model") == tensors(one_process.run / "model")
    assert {dtype for dtype, _ in tensors(done.run / "model").values()} == {"BF16"}


@pytest.mark.long
def test_copies_of_shards_train_the_same_plan(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Two ranks share each of two copies, whose gradients meet in the last micro-batch alone."""
    losses = []
    four: dict[str, Any] = {"parallel": parallel("fsdp", 4, copies=2), "precision": SIXTEEN_BIT}
    for ranks, changes in ((1, full()), (4, full(**four))):
        (tmp_path / str(ranks)).mkdir()
        done = train(
            tmp_path / str(ranks),
            tiny_checkpoint,
            **changes,
            batch__global_batch_size=8,
            batch__micro_batch_size=4 // ranks,
            training={"max_steps": 3},
        )
        losses.append(done.losses)
    assert losses[1] == pytest.approx(losses[0], rel=SIXTEEN_BIT_WEIGHTS)
    setup = done.read("report.json")["setup"]
    assert (setup["engine"], setup["world_size"], setup["copies"]) == ("fsdp", 4, 2)
    assert {dtype for dtype, _ in tensors(done.run / "model").values()} == {"BF16"}


@pytest.fixture(scope="module")
def pure_bf16(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Full fine-tuning in one process, everything in bf16."""
    return train(tmp_path_factory.mktemp("pure"), tiny_checkpoint, **full(precision=PURE_BF16))


def test_pure_bf16_keeps_nothing_in_fp32(one_process: Finished, pure_bf16: Finished) -> None:
    setup = pure_bf16.read("report.json")["setup"]
    assert (setup["trainable_dtypes"], setup["autocast_dtype"]) == (["bfloat16"], None)
    assert pure_bf16.losses == pytest.approx(one_process.losses, rel=SIXTEEN_BIT_WEIGHTS)
    assert tensors(pure_bf16.run / "model") == tensors(one_process.run / "model")


@pytest.mark.parametrize(
    "strategy",
    [
        "ddp",
        pytest.param("zero1", marks=pytest.mark.long),
        "zero2",
        "zero3",
        "fsdp",
    ],
)
def test_two_ranks_train_in_pure_bf16(
    pure_bf16: Finished, tiny_checkpoint: Path, tmp_path: Path, strategy: str
) -> None:
    """To the losses of one process, whose gradients are added in another order."""
    copied = {} if strategy in ("ddp", "fsdp") else {"master": "bf16"}
    done = train(
        tmp_path,
        tiny_checkpoint,
        **full(parallel=parallel(strategy), **TWO_RANKS, precision=PURE_BF16 | copied),
    )
    assert done.losses == pytest.approx(pure_bf16.losses, rel=SAME_SUMS)
    report = done.read("report.json")
    assert report["setup"]["trainable_dtypes"] == ["bfloat16"]
    assert report["setup"]["zero_stage"] == parallel(strategy)["zero_stage"]


@pytest.mark.parametrize(
    ("strategy", "offload", "ranks"),
    [("zero2", "optimizer", 2), ("zero3", "all", 2), ("zero2", "optimizer", 1)],
)
def test_offloaded_training_is_the_same(
    one_process: Finished,
    tiny_checkpoint: Path,
    tmp_path: Path,
    strategy: str,
    offload: str,
    ranks: int,
) -> None:
    """On the CPU both ends are host memory; what DeepSpeed does on the way is the same."""
    done = train(
        tmp_path,
        tiny_checkpoint,
        **full(
            parallel=parallel(strategy, ranks, offload=offload),
            batch__gradient_accumulation_steps=2 // ranks,
            precision=SIXTEEN_BIT,
        ),
    )
    assert done.losses == pytest.approx(one_process.losses, rel=SIXTEEN_BIT_WEIGHTS)
    zero = done.read("deepspeed.json")["zero_optimization"]
    assert zero["offload_optimizer"]["device"] == "cpu"
    assert ("offload_param" in zero) == (offload == "all")
    assert done.read("report.json")["setup"]["zero_stage"] == int(strategy[-1])


GIVEN_BY_ACCELERATE = {
    "steps_per_print": math.inf,
    "fp16": {"enabled": False},
}
"""What accelerate puts into DeepSpeed's configuration itself; none of it is a plan's to say."""


@pytest.mark.parametrize(
    ("strategy", "offload"), [("zero1", "none"), ("zero2", "optimizer"), ("zero3", "all")]
)
def test_deepspeed_json_is_what_the_engine_was_given(
    tiny_checkpoint: Path, tmp_path: Path, strategy: str, offload: str
) -> None:
    """It is a record for people: ranks make the same from ``plan.yaml``, and nothing reads it."""
    layout = parallel(strategy, offload=offload)
    changes = full(parallel=layout, **TWO_RANKS, precision=SIXTEEN_BIT, training={"max_steps": 1})
    write_inputs(tmp_path, tiny_checkpoint, **changes)
    done = Launcher(fault="engine@step_end:1").run(tmp_path)
    assert done.code == 0, done.errors
    for rank in range(2):
        assert done.read(f"engine-{rank}.json") == done.read("deepspeed.json") | GIVEN_BY_ACCELERATE


def test_adapters_under_zero3_with_checkpointing(
    one_process_lora: Finished, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    done = train(
        tmp_path,
        tiny_checkpoint,
        parallel=parallel("zero3"),
        precision=SIXTEEN_BIT,
        activation_checkpointing=True,
        **TWO_RANKS,
    )
    assert done.losses == pytest.approx(one_process_lora.losses, rel=SIXTEEN_BIT_WEIGHTS)
    found, expected = tensors(done.run / "adapter"), tensors(one_process_lora.run / "adapter")
    assert {name: shape for name, (_, shape) in found.items()} == {
        name: shape for name, (_, shape) in expected.items()
    }


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_adapters_under_fsdp_with_checkpointing(
    one_process_lora: Finished, tiny_checkpoint: Path, tmp_path: Path, method: str
) -> None:
    done = train(
        tmp_path,
        tiny_checkpoint,
        method=method,
        quantization=NF4 if method == "qlora" else None,
        parallel=parallel("fsdp"),
        precision=SIXTEEN_BIT,
        activation_checkpointing=True,
        **TWO_RANKS,
    )
    tolerance = SIXTEEN_BIT_WEIGHTS if method == "lora" else 0.05
    assert done.losses == pytest.approx(one_process_lora.losses, rel=tolerance)
    assert tensors(done.run / "adapter") == tensors(one_process_lora.run / "adapter")
    setup = done.read("report.json")["setup"]
    assert (setup["engine"], setup["trainable_dtypes"]) == ("fsdp", ["float32"])


def test_an_int8_base_that_recomputes_every_second_layer(
    one_process_lora: Finished, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    done = train(
        tmp_path,
        tiny_checkpoint,
        method="qlora",
        quantization={"quant_type": "int8"},
        activation_checkpointing=True,
        checkpoint_every=2,
        training={"max_steps": 2},
    )
    assert done.losses == pytest.approx(one_process_lora.losses[:2], rel=0.05)
    assert done.read("report.json")["setup"]["frozen_dtypes"] == ["bfloat16", "int8"]


def test_recomputing_some_layers_changes_no_loss(
    one_process: Finished, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    done = train(
        tmp_path,
        tiny_checkpoint,
        **full(activation_checkpointing=True, checkpoint_every=2, parallel=parallel("ddp")),
        **TWO_RANKS,
    )
    assert done.losses == pytest.approx(one_process.losses, rel=SAME_SUMS)


def test_quantized_adapters_under_zero2(tiny_checkpoint: Path, tmp_path: Path) -> None:
    done = train(
        tmp_path,
        tiny_checkpoint,
        method="qlora",
        quantization=NF4,
        parallel=parallel("zero2"),
        precision=SIXTEEN_BIT,
        training={"max_steps": 4, "logging_steps": 3},
        **TWO_RANKS,
    )
    assert [row["step"] for row in done.metrics] == [1, 3, 4]
    assert done.losses[-1] < done.losses[0]
    setup = done.read("report.json")["setup"]
    assert setup["frozen_dtypes"] == ["bfloat16", "uint8"]
    assert setup["zero_optimizer_class"] == "DeepSpeedZeroOptimizer"


def test_the_standard_loss_is_the_same_number(
    one_process_lora: Finished, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    done = train(tmp_path, tiny_checkpoint, loss="standard")
    assert done.losses == pytest.approx(one_process_lora.losses, rel=SAME_SUMS)


@pytest.mark.long
def test_adapters_of_experts_train_the_same_under_every_strategy(
    tiny_mixture: Path, tmp_path: Path
) -> None:
    adapter = {
        "rank": 8,
        "alpha": 16,
        "dropout": 0.0,
        "target_modules": ["q_proj"],
        "target_parameters": ["experts.gate_up_proj", "experts.down_proj"],
    }
    losses, shapes = dict[str, list[float]](), dict[str, dict[str, tuple[int, ...]]]()
    for strategy in ("single", "ddp", "zero2", "fsdp"):
        (tmp_path / strategy).mkdir()
        done = train(
            tmp_path / strategy,
            tiny_mixture,
            adapter=adapter,
            model__model_type="mixtral",
            model__num_params=255_040,
            model__trainable_params=34_816,
            parallel=parallel(strategy),
            activation_checkpointing=strategy in ("zero2", "fsdp"),
            **({} if strategy in ("single", "ddp") else {"precision": SIXTEEN_BIT}),
            **({} if strategy == "single" else TWO_RANKS),
        )
        losses[strategy] = done.losses
        shapes[strategy] = {name: x[1] for name, x in tensors(done.run / "adapter").items()}
        assert shapes[strategy] == shapes["single"]
    alone = losses.pop("single")
    assert losses.pop("ddp") == pytest.approx(alone, rel=SAME_SUMS)
    for found in losses.values():
        assert found == pytest.approx(alone, rel=SIXTEEN_BIT_WEIGHTS)


def tensors(folder: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Dtype and whole shape of everything saved, by name."""
    from safetensors import safe_open

    (path,) = folder.glob("*.safetensors")
    with safe_open(path, framework="numpy") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        return {name: (x.get_dtype(), tuple(x.get_shape())) for name, x in slices.items()}
