"""One published run again: what its source installed and ran, as data, on a simulated card."""

import json
import os
import re
import struct
import subprocess
import sys
import tarfile
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, cast

import torch
from msgspec import field
from transformers import AutoConfig, AutoModelForCausalLM

from benchmarks.accuracy.sources import sources
from benchmarks.marks import ROOT
from benchmarks.peers.model_files import config
from benchmarks.rows import UNITS, Row
from planner.base.strict_yaml import Spec, read_spec
from planner.models.model_presets import load_model
from planner.plan.vocabulary import Method

RUN_SECONDS = 1200
OURS = ("msgspec", "nvidia-ml-py", "pyyaml", "rich")
"""What the simulated cards need beside the source's own packages."""


class Reading(Spec):
    """One figure: where the source's program prints it, and where its published row has it."""

    path: str
    """Keys of the printed JSON, separated by slashes."""
    noted: str | None = None
    """A pattern of the row's notes; None for the readings that every row has."""


class Replay(Spec):
    """Rows of one source and one set of versions."""

    source: str
    noted: str
    """Words that the notes of its rows have: the version of torch."""
    card: str
    resolved: list[str]
    """Packages that are installed with what they depend on."""
    alone: list[str]
    """Packages that are installed without: torch depends on NVIDIA's."""
    not_stated: list[str]
    """Packages among them whose version the source does not state."""
    program: list[str]
    """Arguments of Python, with names of a row's fields in braces."""
    methods: dict[Method, list[str]]
    unit: Literal["MiB", "GiB"]
    readings: dict[str, Reading]
    unpacked: str | None = None
    """Package on PyPI of which the program is a script that only its source distribution has."""
    checkpointing: dict[str, list[str]] = field(default_factory=dict)
    from_origin: dict[str, str] = field(default_factory=dict)
    """Patterns of further arguments in the place where the source published the row."""

    def has(self, row: Row) -> bool:
        """Return whether a published row is one of these."""
        return row.source == self.source and self.noted in row.notes

    def arguments(self, row: Row, model: Path) -> list[str]:
        """Return the arguments of Python for a row whose model is in a folder; raise ValueError
        where the place of the row lacks one."""
        known = {**asdict(row), "model": model}
        for name, pattern in self.from_origin.items():
            known[name] = _found(pattern, row.origin)
            if known[name] is None:
                raise ValueError(f"{row.id}: {pattern} is not in {row.origin}")
        fixed = [argument.format(**known) for argument in self.program]
        varied = [
            *self.methods[cast("Method", row.method)],
            *self.checkpointing.get(row.checkpointing, []),
        ]
        return [*fixed, *varied]

    def measured(self, row: Row) -> dict[str, int]:
        """Return the published bytes by reading."""
        found: dict[str, int] = dict(row.readings.items())
        for name, reading in self.readings.items():
            size = _found(reading.noted, row.notes) if reading.noted else None
            if size is not None:
                found[name] = round(float(size) * UNITS[self.unit])
        return {name: size for name, size in found.items() if name in self.readings}

    def counted(self, printed: Any) -> dict[str, int]:
        """Return the bytes by reading in what the program printed."""
        return {
            name: round(float(_at(printed, reading.path)) * UNITS[self.unit])
            for name, reading in self.readings.items()
        }


def _found(pattern: str, text: str) -> str | None:
    match = re.search(pattern, text)
    return match[1] if match else None


def _at(printed: Any, path: str) -> Any:
    for key in path.split("/"):
        printed = printed[int(key) if isinstance(printed, list) else key]
    return printed


def replays() -> list[Replay]:
    """Return what is declared beside this module."""
    return [read_spec(Replay, path) for path in sorted(Path(__file__).parent.glob("*.yaml"))]


@dataclass(frozen=True, slots=True)
class Environment:
    """The packages of a replay, in a folder of their own, and what was unpacked there."""

    folder: Path
    replay: Replay

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"

    @property
    def unpacked(self) -> Path:
        """The folder in which the program is run: of the source distribution, if one is named."""
        return next((self.folder / "unpacked").glob("*/"), self.folder)

    def make(self) -> None:
        """Install what is missing; nothing is fetched afterwards."""
        done = self.folder / ".installed"
        if done.exists():
            return
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(self.folder)], check=True)
        self._pip("install", *self.replay.resolved, *OURS)
        self._pip("install", "--no-deps", *self.replay.alone)
        if self.replay.unpacked is not None:
            self._unpack(self.replay.unpacked)
        done.touch()

    def _pip(self, *arguments: str) -> None:
        command = [str(self.python), "-m", "pip", arguments[0], "--quiet", "--no-cache-dir"]
        own = {name: value for name, value in os.environ.items() if name != "PIP_CONSTRAINT"}
        subprocess.run([*command, *arguments[1:]], check=True, env={**own, "PIP_CONSTRAINT": ""})

    def _unpack(self, package: str) -> None:
        with TemporaryDirectory() as fetched:
            self._pip("download", "--no-deps", "--no-binary=:all:", f"--dest={fetched}", package)
            for archive in Path(fetched).glob("*.tar.gz"):
                with tarfile.open(archive) as content:
                    content.extractall(self.folder / "unpacked", filter="data")

    def run(self, row: Row, model: Path) -> Any:
        """Return what the program printed as JSON; raise RuntimeError with its last words."""
        simulated = [str(self.python), "-m", "launcher.simulated_gpu", self.replay.card]
        program = [str(self.python), *self.replay.arguments(row, model)]
        places = os.pathsep.join([str(ROOT), str(self.unpacked)])
        ended = subprocess.run(
            [*simulated, *program],
            cwd=self.unpacked,
            env={**os.environ, "PYTHONPATH": places, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
            timeout=RUN_SECONDS,
        )
        try:
            return json.loads(ended.stdout)
        except ValueError:
            said = (ended.stderr or ended.stdout).strip().splitlines()
            raise RuntimeError(said[-1] if said else f"exit code {ended.returncode}") from None


def write_model(row: Row, folder: Path) -> Path:
    """Write a row's model, with weights of zeros that take no room on the disk."""
    preset = load_model(sources()[row.source].models[row.model])
    (folder / "config.json").write_text(json.dumps(config(preset)), encoding="utf-8")
    known = AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(known, dtype=torch.bfloat16)
    kept = {name: each for name, each in model.state_dict().items() if not _is_tied(model, name)}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, each in sorted(kept.items()):  # read: safetensors at 0.8.0, tensor.rs, prepare
        begin, end = end, end + each.numel() * each.element_size()
        header[name] = {"dtype": "BF16", "shape": list(each.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(file.tell() + end)
    return folder


def _is_tied(model: Any, name: str) -> bool:
    return bool(model.config.tie_word_embeddings) and name in (model._tied_weights_keys or ())
