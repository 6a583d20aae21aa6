"""Every request of expert_choices.yaml is decided as experts do, or as argued there."""

from pathlib import Path
from typing import Annotated, Any

import pytest
from msgspec import Meta, structs
from msgspec.structs import asdict

from planner.base.errors import NothingFitsError
from planner.base.preset_files import ROOT
from planner.base.strict_yaml import PositiveInt, Spec, read_spec
from planner.base.units import GIB
from planner.decision.choose import decide
from planner.decision.request import Request
from planner.hardware.detect import parse_gpus
from planner.hardware.multi_node import over_nodes
from planner.models.model_presets import load_model
from planner.plan.vocabulary import Method, Offload, Strategy

Sentence = Annotated[str, Meta(pattern=r"^\w.*\.$")]


class Options(Spec):
    """Options of ``plan``, by the names of their fields in Request."""

    model: str
    gpus: str
    nodes: PositiveInt = 1
    host_ram_gib: PositiveInt | None = None
    method: Method | None = None
    sequence_length: PositiveInt | None = None
    global_batch_size: PositiveInt | None = None
    micro_batch_size: PositiveInt | None = None
    lora_rank: PositiveInt | None = None
    optimizer: str | None = None

    @property
    def request(self) -> Request:
        """The request, on the machine that ``gpus``, ``nodes`` and ``host_ram_gib`` describe."""
        cluster = parse_gpus(self.gpus)
        if self.host_ram_gib is not None:
            cluster = structs.replace(cluster, host_ram_bytes=self.host_ram_gib * GIB)
        if self.nodes > 1:
            cluster = over_nodes(cluster, self.nodes, None)
        machine = ("model", "gpus", "nodes", "host_ram_gib")
        pinned: Any = {k: v for k, v in asdict(self).items() if k not in machine}
        return Request(model=load_model(self.model), cluster=cluster, **pinned)


class Choice(Spec):
    """A choice; None where it is not stated."""

    fits: bool = True
    method: Method | None = None
    strategy: Strategy | None = None
    offload: Offload = "none"
    recomputed: bool | None = None
    optimizer: str = "adamw_torch_fused"


class Departure(Spec):
    """The fields of a choice that differ from the experts'; None where they do not."""

    fits: bool | None = None
    method: Method | None = None
    strategy: Strategy | None = None
    offload: Offload | None = None
    recomputed: bool | None = None
    optimizer: str | None = None

    @property
    def fields(self) -> dict[str, Any]:
        """The fields that differ, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}


class ExpertChoice(Spec):
    """A request, what experts choose for it, and where and why the planner departs."""

    request: Options
    experts: Choice
    sources: Annotated[tuple[str, ...], Meta(min_length=1)]
    reason: Sentence
    ours: Departure = Departure()
    departure: Sentence | None = None

    @property
    def name(self) -> str:
        """The request as a test's name."""
        options = (str(v) for v in asdict(self.request).values() if v is not None)
        return "-".join(options)


class ExpertChoices(Spec):
    """The file: the commit at which each repository was read, and the choices."""

    revisions: dict[str, Annotated[str, Meta(pattern="^[0-9a-f]{40}$")]]
    choices: tuple[ExpertChoice, ...]


FILE = read_spec(ExpertChoices, Path(__file__).parent / "expert_choices.yaml")
each_choice = pytest.mark.parametrize("choice", FILE.choices, ids=lambda choice: choice.name)


def decided(request: Request) -> Choice:
    """Return the planner's choice for a request."""
    try:
        chosen = decide(request).chosen
    except NothingFitsError:
        return Choice(fits=False)
    return Choice(
        method=chosen.method,
        strategy=chosen.layout.strategy,
        offload=chosen.layout.offload,
        recomputed=chosen.layout.activation_checkpointing,
        optimizer=chosen.workload.settings.optimizer.name,
    )


@each_choice
def test_requests_are_decided_as_experts_do_or_as_argued(choice: ExpertChoice) -> None:
    expected = asdict(choice.experts) | choice.ours.fields
    found = asdict(decided(choice.request.request))
    compared = [name for name, value in expected.items() if value is not None]
    if not expected["fits"]:
        compared = ["fits"]
    assert {name: found[name] for name in compared} == {name: expected[name] for name in compared}


@each_choice
def test_only_a_choice_that_departs_is_argued_for(choice: ExpertChoice) -> None:
    experts, ours = asdict(choice.experts), choice.ours.fields
    assert (choice.departure is None) == (not ours)
    for name, value in ours.items():
        assert experts[name] is not None, f"{name}: experts leave it open, so nothing departs"
        assert experts[name] != value, f"{name}: experts choose the same"


def test_every_source_is_a_file_of_a_known_revision_or_of_this_repository() -> None:
    cited = set()
    for source in (source for choice in FILE.choices for source in choice.sources):
        repository, colon, path = source.partition(":")
        if colon:
            assert path
            cited.add(repository)
        else:
            assert (ROOT.parent / source).is_file()
    assert cited == set(FILE.revisions)


def test_requests_differ() -> None:
    assert len({choice.request for choice in FILE.choices}) == len(FILE.choices)
