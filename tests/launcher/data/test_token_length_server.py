"""Token lengths as the planner asks for them: the launcher's own, kept, and every error told."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from msgspec import convert, structs

from launcher.base_model.find_checkpoint import Checkpoint, ModelNotFoundError
from launcher.data import token_length_server
from launcher.data.sources import find_sources
from launcher.data.tables import training_table
from launcher.lifecycle.preparation_process import prepared_data
from planner.base.errors import InvalidRequestError
from planner.cli import plan_command as cli
from planner.cli.model_option import load_model_dir
from planner.datasets.training_data import TrainingData
from planner.decision.choose import decide
from planner.decision.epochs import epochs_of
from planner.plan.data_section import DataSection
from planner.plan.schema import ModelSection
from planner.report.data_rows import data_rows
from planner.training_stack.token_length_client import known_data, training_data
from tests.launcher.launching import REPOSITORY, asked, write_records
from tests.launcher.plans import plan
from tests.planner.builders import cards, request


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def model(source: Path | str) -> ModelSection:
    return ModelSection(
        name="tiny", source=str(source), model_type="llama", num_params=1, trainable_params=0
    )


def answer(data: DataSection, checkpoint: Path, said: list[str] | None = None) -> dict[str, Any]:
    lines = [] if said is None else said
    return token_length_server.answer_to(data, model(checkpoint), 42, lines.append)


def test_they_are_those_that_a_launch_trains_on(tmp_path: Path, tiny_checkpoint: Path) -> None:
    """Weights and validation too: the same records are drawn."""
    write_records(tmp_path / "a.jsonl", [asked("n" * n, "yes") for n in range(1, 41)])
    write_records(tmp_path / "b.jsonl", [{"text": "b" * n} for n in range(50, 60)])
    content = {
        "sources": [
            {"source": str(tmp_path / "a.jsonl"), "weight": 0.5},
            {"source": str(tmp_path / "b.jsonl"), "weight": 2},
        ],
        "validation_fraction": 0.2,
    }
    data = convert(content, DataSection)
    found = answer(data, tiny_checkpoint)
    made = plan(data=content)
    entry = prepared_data(
        made, find_sources(data), Checkpoint(tiny_checkpoint, "tiny"), io.StringIO()
    )
    trained = [len(row) for row in training_table(str(entry.folder))["input_ids"]]
    assert found["num_samples"] == len(trained)
    assert known_data(found).lengths.counts == {n: trained.count(n) for n in set(trained)}
    assert list(found["formats"].values()) == ["messages", "text"]


def test_what_a_length_cuts_is_what_a_launch_cuts(tmp_path: Path, tiny_checkpoint: Path) -> None:
    """Whole, cut in the answer, and left out with an answer beyond the length."""
    records = [asked("Who?", "Ada"), asked("Who?", "x" * 200), asked("x" * 200, "Ada")]
    write_records(tmp_path / "a.jsonl", records)
    data = DataSection(source=str(tmp_path / "a.jsonl"))
    known = known_data(answer(data, tiny_checkpoint))
    made = plan(data__source=data.source, batch__sequence_length=64)
    launched = prepared_data(
        made, find_sources(data), Checkpoint(tiny_checkpoint, "tiny"), io.StringIO()
    ).summary
    planned = decide(
        request(
            cards(1, 24),
            model="smollm2-135m",
            data=TrainingData(section=data, known=known),
            sequence_length=64,
        )
    ).chosen
    found = epochs_of(planned, known)
    assert (found.num_rows, found.num_truncated, found.num_dropped) == (2, 1, 1)
    assert found.num_rows == launched["num_samples"]
    assert found.num_truncated == launched["num_truncated"]
    assert found.num_dropped == launched["num_dropped"]
    assert found.tokens_lost == launched["num_tokens_lost"] > 0
    line = data_rows(planned, TrainingData(section=data, known=known), None)[1][1]
    assert line == (
        f"64 tokens: 1 sample is cut (33.3 %) and loses {found.tokens_lost} tokens; "
        "1 sample is left out (answer beyond the sequence length)"
    )
    with pytest.raises(InvalidRequestError, match="no record has an answer within 8 tokens"):
        known.lengths.cut(8)


def test_a_large_data_set_is_sampled(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_length_server, "SAMPLED", 50)
    path = tmp_path / "data.jsonl"
    write_records(path, [asked("n" * (1 + n % 10), "yes") for n in range(500)])
    found = answer(DataSection(source=str(path)), tiny_checkpoint)
    assert found["num_samples"] == 500
    lengths = known_data(found).lengths
    assert lengths.num_records == 50
    assert len(lengths.counts) >= 8


def test_they_are_kept_by_content(tmp_path: Path, tiny_checkpoint: Path) -> None:
    said: list[str] = []
    path = tmp_path / "data.jsonl"
    write_records(path, [asked("Who?", "Ada")])
    data = DataSection(source=str(path))
    assert answer(data, tiny_checkpoint, said) == answer(data, tiny_checkpoint, said)
    assert said == ["reading the data's token lengths (once; they are kept)"]
    write_records(path, [asked("Who?", "Ada Lovelace")])
    answer(data, tiny_checkpoint, said)
    assert len(said) == 2


def test_a_folder_without_a_tokenizer(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    write_records(path, [asked("Who?", "Ada")])
    with pytest.raises(ModelNotFoundError, match="has no tokenizer"):
        answer(DataSection(source=str(path)), tmp_path)


def test_the_planner_asks_a_process(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "data.jsonl"
    write_records(path, [asked("Who?", "Ada"), asked("And now?", "Ada")])
    preset = load_model_dir(tiny_checkpoint)
    known = training_data(DataSection(source=str(path)), preset).known
    assert known is not None
    assert (known.name, known.formats, known.num_samples) == (str(path), "messages", 2)
    assert known.lengths.longest - known.lengths.quantile(0.5) == len("And now?") - len("Who?")
    path.write_text(json.dumps({"messages": []}), encoding="utf-8")
    with pytest.raises(InvalidRequestError, match=r"data.jsonl:1: messages: a list of messages"):
        training_data(DataSection(source=str(path)), preset)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    write_records(path, [asked("Who?", "Ada")])
    nowhere = structs.replace(preset, hub_id="somebody/some-model")
    unknown = training_data(DataSection(source=str(path)), nowhere)
    assert unknown.known is None
    assert unknown.why_unknown == "somebody/some-model: HF_HUB_OFFLINE is set"


@pytest.mark.parametrize("gpus", ["24G", "2x24G", "cpu"])
def test_a_file_is_planned_for(
    gpus: str, tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "data.jsonl"
    write_records(path, [asked("Who?", "Ada" * n) for n in range(1, 30)])
    cli.plan(model=str(tiny_checkpoint), gpus=gpus, data=str(path), output=tmp_path / "plan.yaml")
    assert "29 samples per epoch" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("source", "why"),
    [
        (
            "raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')",
            "the training stack is not installed, torch is missing: pip install 'tuneplan[train]'",
        ),
        (
            "raise RuntimeError('operator torchvision::nms does not exist')",
            "launcher.data.token_length_server failed with RuntimeError: operator torchvision::nms "
            "does not exist",
        ),
    ],
)
def test_a_process_that_crashes_says_what_failed(
    source: str, why: str, tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_records(tmp_path / "data.jsonl", [asked("Who?", "Ada")])
    (tmp_path / "transformers.py").write_text(source, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{REPOSITORY}")
    preset = load_model_dir(tiny_checkpoint)
    unknown = training_data(DataSection(source=str(tmp_path / "data.jsonl")), preset)
    assert (unknown.known, unknown.why_unknown) == (None, why)


def test_a_broken_tokenizer_is_named(tmp_path: Path, tiny_checkpoint: Path) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(tiny_checkpoint, folder)
    (folder / "tokenizer.json").write_text('{"version": ', encoding="utf-8")
    write_records(tmp_path / "data.jsonl", [asked("Who?", "Ada")])
    data = DataSection(source=str(tmp_path / "data.jsonl"))
    unknown = training_data(data, load_model_dir(folder))
    assert unknown.why_unknown == (
        f"the tokenizer in {folder} cannot be loaded (JSONDecodeError: Expecting value: line 1 "
        "column 13 (char 12)). Fetch its files again"
    )
