"""What the ranks of a run start from, as it was prepared, in ``inputs.json``."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from launcher.data.cache import SUMMARY
from launcher.run.run_directory import RunDirectory
from launcher.storage.json_files import read_json, write_json


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What a run trains: a base model and a tokenized data set."""

    checkpoint: str
    """Folder of the base model."""
    base_name: str
    """Name by which an adapter calls its base model."""
    data_folder: str
    """Folder of the tokenized data set."""
    data_key: str
    """Key that is the same for the same data, tokenizer, template and settings."""
    file_digests: list[list[str]]
    """Digests of the files of every source, which may be moved."""
    data: dict[str, Any]
    """Fields of the ``DataSummary``."""

    @property
    def are_there(self) -> bool:
        """Whether both folders exist: they lie outside of the run, where anybody may clear up."""
        model, data = Path(self.checkpoint) / "config.json", Path(self.data_folder) / SUMMARY
        return model.is_file() and data.is_file()


def read_inputs(run: RunDirectory) -> Inputs:
    return Inputs(**read_json(run.inputs))


def inputs_before(run: RunDirectory) -> Inputs | None:
    """Return the inputs of a run that is resumed, or None if none were prepared."""
    return read_inputs(run) if run.inputs.is_file() else None


def write_inputs(run: RunDirectory, inputs: Inputs) -> None:
    run.inputs.parent.mkdir(parents=True, exist_ok=True)
    write_json(run.inputs, asdict(inputs))
