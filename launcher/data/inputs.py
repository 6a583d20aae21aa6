"""What the ranks of a run start from, as it was prepared; ``inputs.json``."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from launcher.data.cache import SUMMARY
from launcher.run.run_directory import RunDirectory
from launcher.storage.json_files import read_json, write_json


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    checkpoint: str
    """Folder of the base model."""
    base_name: str
    """What an adapter calls its base model."""
    data_folder: str
    """Of the tokenized data set."""
    data_key: str
    """The same for the same data, tokenizer, template and settings."""
    data: dict[str, Any]
    """``DataSummary``."""

    @property
    def are_there(self) -> bool:
        """Both folders are kept outside of the run, where anybody may clear up."""
        model, data = Path(self.checkpoint) / "config.json", Path(self.data_folder) / SUMMARY
        return model.is_file() and data.is_file()


def read_inputs(run: RunDirectory) -> Inputs:
    return Inputs(**read_json(run.inputs))


def inputs_before(run: RunDirectory) -> Inputs | None:
    """Of a run that goes on; nothing where none were prepared."""
    return read_inputs(run) if run.inputs.is_file() else None


def write_inputs(run: RunDirectory, inputs: Inputs) -> None:
    run.inputs.parent.mkdir(parents=True, exist_ok=True)
    write_json(run.inputs, asdict(inputs))
