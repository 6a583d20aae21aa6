"""A forward pass under ZeRO-3 that no backward pass follows, as evaluations and answers are: the
pass and what is gathered for it, module by module.

A pass begins with what the one before has left whole, which DeepSpeed counts as live no longer. An
adapter's model answers by way of the model inside it, so that its modules do not come as they were
recorded: from there on each is gathered for itself alone.

read: deepspeed/runtime/zero/partitioned_param_coordinator.py, trace_prologue and reset_step, and
parameter_offload.py, _start_of_forward_hook, at 0.19.8; peft/peft_model.py, generate, at 0.21.2.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import accumulate

from msgspec import Struct, field

from planner.forward.decoder import Decoder, Layer
from planner.forward.model_pass import ModelPass
from planner.forward.module_order import Module
from planner.memory.micro_batch import Amounts, add_to, placed_layers, sums_of
from planner.memory.zero_3_gathering import Coordinator, recorded
from planner.plan.schema import ZeroSection
from planner.tape.attention_workspaces import as_kernels_see
from planner.tape.tensors import Parameter, StorageEvent, Tensor
from planner.workload.dtypes import Numerics
from planner.workload.settings_cache import PASS, cached_by_settings
from planner.workload.workload import Batch, Workload

EMBEDDING = "embedding"
"""Name of the storage that the module of a table makes."""
TABLES = ("embed_tokens", "embed_positions")
"""Names of the tables, in the order in which they are read."""


class GatheredAlone(Struct, frozen=True):
    """The largest moment: bytes of the pass by owner, and of whole parameters beside them."""

    alive: Amounts
    gathered: int

    @property
    def num_bytes(self) -> int:
        """Bytes of both."""
        return self.alive.total() + self.gathered


class _NotingDecoder(Decoder):
    """A decoder that notes where in the log the modules of its weights begin and end."""

    begins: dict[str, int] = field(default_factory=dict)
    ends: dict[str, int] = field(default_factory=dict)

    def product(
        self,
        weight: Tensor,
        x: Tensor,
        out_features: int,
        name: str,
        bias: Parameter | None = None,
        *,
        cached: bool = True,
        is_transposed: bool = False,
        copies: bool = False,
        is_cut: bool = False,
    ) -> Tensor:
        place = next((name for name, each in self.weights.items() if each is weight), name)
        self.begins[place] = len(self.tape.log)
        output = super().product(
            weight,
            x,
            out_features,
            name,
            bias,
            cached=cached,
            is_transposed=is_transposed,
            copies=copies,
            is_cut=is_cut,
        )
        self.ends[place] = len(self.tape.log)
        return output

    def expert_parameter(self, layer: Layer, name: str, elements: int) -> Parameter:
        self.begins.setdefault(f"{layer.place}.{name}", len(self.tape.log))
        return super().expert_parameter(layer, name, elements)


class _Stretch(Struct, frozen=True):
    """A stretch of the log, and where the modules in it begin and end."""

    events: list[StorageEvent] = []
    begins: dict[str, int] = {}
    ends: dict[str, int] = {}

    @property
    def levels(self) -> list[int]:
        """Bytes that are added before each event, and at the end."""
        return list(accumulate([event[0] for event in self.events], initial=0))

    def placed(self, modules: Iterable[Module]) -> list[tuple[int, int, bool, Module]]:
        """Return where each module begins and ends, and whether it is its beginning, in order. One
        whose place is not known, or whose end is not, is there to the end of the stretch."""
        found: list[tuple[int, int, bool, Module]] = []
        done = 0
        for number, module in enumerate(modules):
            names = [
                _in_its_layer(each.name)
                for each in module.params
                if not each.name.endswith(".bias")
            ]
            begin = max([done, *(self.begins[name] for name in names if name in self.begins)])
            ends = [self.ends.get(name, len(self.events)) for name in names]
            end = max([begin, *ends])
            found += [(begin, 2 * number, True, module), (end, 2 * number + 1, False, module)]
            done = end if all(name in self.ends for name in names) else done
        return sorted(found, key=lambda each: each[:2])


def _in_its_layer(name: str) -> str:
    """Return the name of a weight without the place of its layer."""
    return name.split(".", 2)[2] if name.startswith("layers.") else name


class _Pass(Struct, frozen=True):
    """A run of the few layers that stand for all."""

    before: _Stretch
    layers: tuple[_Stretch, ...]
    head: _Stretch
    places: tuple[int, ...]
    """Number of the stretch of each layer of the model."""


@cached_by_settings(*PASS)
def _pass_of(workload: Workload, batch: Batch, kinds: Numerics, *, generates: bool) -> _Pass:
    first, *others = placed_layers(workload, 0)
    few = list(dict.fromkeys(others))
    run = ModelPass(
        workload,
        batch,
        kinds,
        layers=[each.layer for each in (first, *few)],
        sink="keep",
        trains=False,
        generates=generates,
        decoder=_NotingDecoder,
    )
    decoder, log = run.decoder, run.tape.log
    assert isinstance(decoder, _NotingDecoder)
    tables = [place + 1 for place, event in enumerate(log) if event[3] == EMBEDDING]
    borders = [place for _, place in run.tape.borders]

    def between(start: int, stop: int) -> _Stretch:
        inside = [
            {
                _in_its_layer(name): place - start
                for name, place in places.items()
                if start <= place <= stop
            }
            for places in (decoder.begins, decoder.ends)
        ]
        return _Stretch(log[start:stop], *inside)

    ends_of_tables = dict(zip(TABLES, tables, strict=False))
    before = _Stretch(log[: borders[0]], dict.fromkeys(ends_of_tables, 0), ends_of_tables)
    return _Pass(
        before=before,
        layers=tuple(map(between, borders, borders[1:])),
        head=between(borders[-1], run.casts_gone[0]),
        places=(0, *(1 + few.index(each) for each in others)),
    )


def largest_alone(
    workload: Workload,
    batch: Batch,
    kinds: Numerics,
    *,
    ranks: int,
    zero: ZeroSection,
    checkpointing: int,
    from_host: bool,
    cached: int | None = None,
) -> GatheredAlone:
    """Return the largest moment of an evaluation; where so many bytes of keys and values are
    ``cached`` when the prompt has been read, of an answer after one."""
    coordinator, modules = recorded(
        workload,
        ranks,
        zero,
        checkpointing=checkpointing,
        width=kinds.compute,
        from_host=from_host,
    )
    run = _pass_of(workload, as_kernels_see(batch), kinds, generates=cached is not None)
    in_layers = (layer.forward for layer in modules.layers)
    in_parts = [
        [*modules.around, *modules.embedding, *modules.positions],
        *in_layers,
        [modules.norm, modules.head],
    ]
    throughout: Module | None = None
    if workload.loss == "fused":
        throughout = in_parts[-1].pop()
    stretches = [run.before, *(run.layers[place] for place in run.places), run.head]
    coordinator.reset()
    if cached is None:
        return _passed(coordinator, stretches, in_parts, throughout)
    nothing = [_Stretch()] * len(stretches)
    _passed(coordinator, nothing, in_parts, throughout)
    is_inside = workload.settings.adapter is not None
    (coordinator.invalidate if is_inside else coordinator.reset)()
    prompt = _passed(coordinator, stretches, in_parts, throughout)
    if not is_inside:
        # The head's module is none of those that were recorded with the fused loss.
        (coordinator.reset if throughout is None else coordinator.invalidate)()
    token = _passed(coordinator, nothing, in_parts, throughout)
    token.alive["activations"] += cached
    return max(prompt, token, key=lambda found: found.num_bytes)


class _Largest:
    """The largest of the moments that it is shown."""

    def __init__(self) -> None:
        self.num_bytes = -1
        self.place = 0, 0
        self.gathered = 0

    def show(self, alive: int, place: tuple[int, int], gathered: int) -> None:
        """Keep a moment with so many bytes if it is the largest one."""
        if alive + gathered > self.num_bytes:
            self.num_bytes, self.place, self.gathered = alive + gathered, place, gathered


def _passed(
    coordinator: Coordinator,
    stretches: Sequence[_Stretch],
    in_parts: Sequence[Sequence[Module]],
    throughout: Module | None,
) -> GatheredAlone:
    """Return the largest moment of stretches laid end to end, with the modules in each, and with
    one that is there ``throughout``: trl's fused loss has the head's weight belong to the model."""
    found, base = _Largest(), 0
    coordinator.peak_since()
    if throughout is not None:
        coordinator.fetch(throughout)
    for number, (part, modules) in enumerate(zip(stretches, in_parts, strict=True)):
        levels, done = part.levels, 0
        for place, _, begins, module in part.placed(modules):
            top = max(range(done, place + 1), key=levels.__getitem__)
            found.show(base + levels[top], (number, top), coordinator.live_bytes)
            (coordinator.fetch if begins else coordinator.release)(module)
            found.show(base + levels[place], (number, place), coordinator.peak_since())
            done = place
        top = max(range(done, len(levels)), key=levels.__getitem__)
        found.show(base + levels[top], (number, top), coordinator.live_bytes)
        base += levels[-1]
    if throughout is not None:
        coordinator.release(throughout)
    number, place = found.place
    alive: Amounts = Counter()
    for part in stretches[:number]:
        add_to(alive, sums_of(part.events))
    add_to(alive, sums_of(stretches[number].events[:place]))
    return GatheredAlone(alive, found.gathered)
