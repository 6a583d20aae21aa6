"""The modules of a model in the order in which a step runs them, as DeepSpeed's hooks see it.

Modules without parameters are among them, since before each one parameters are fetched ahead: the
model, a layer, its attention, its MLP, and what is around an adapted matrix. Activations, rotary
embeddings and dropouts elsewhere are left out.

read: deepspeed/runtime/zero/parameter_offload.py at 0.19.8, setup_zero_stage3_hooks.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from msgspec import Struct

from planner.forward.model_pass import passed_layers
from planner.workload.parameters import EXPERTS, Sized, parameters
from planner.workload.settings_cache import TRAINED, cached_by_settings
from planner.workload.workload import Workload

LEAVES = ("mixtral", "qwen2_moe", "qwen3_moe")
"""Architectures whose mixtures are gathered as one module; read:
deepspeed/runtime/zero/leaf_module_config.py at 0.19.8, DEFAULT_LEAF_MODULE_CLASSES."""


READS_INPUT = (
    "norms.0",
    "q_proj",
    "k_proj",
    "v_proj",
    "qkv_proj",
    "q_a_proj",
    "kv_a_proj",
    "in_proj",
)
"""Beginnings of the names of what reads a layer's input."""


FED = ("gate_proj", "gate_up_proj", "up_proj", "down_proj", "router", "experts", "shared", "wg")
"""Beginnings of the names of what an MLP or a mixture has."""


class Module(Struct, eq=False):
    """One module that runs."""

    params: tuple[Sized, ...] = ()
    """Its parameters, without those of modules inside it unless it is a leaf."""
    is_leaf: bool = False
    leaves: tuple["Module", ...] = ()
    """Leaves inside it."""
    inside_elements: int = 0
    """Elements of the parameters of modules inside it."""
    elements: int = 0
    """Elements of its parameters."""

    def __post_init__(self) -> None:
        self.elements = sum([parameter.elements for parameter in self.params])


class LayerModules(Struct, frozen=True):
    """Modules of one layer in the order in which they run."""

    forward: list[Module]
    backward: list[Module]

    @property
    def before_recomputing(self) -> int:
        """Number of the modules of backward that are fetched before the first tensor is asked for
        that recomputation makes: to the first one with a parameter."""
        return next(n for n, module in enumerate(self.backward, 1) if module.params)


class Modules(Struct, frozen=True):
    """Parameters of a model by their module, in the order of a forward pass."""

    around: list[Module]
    """Modules around all others."""
    embedding: list[Module]
    positions: list[Module]
    """The rotary embedding, which has no parameters."""
    layers: list[LayerModules]
    norm: Module
    head: Module
    """The head, with the token embedding where the two are tied."""


Script = list[tuple[str, Module]]
"""A step: what a coordinator does with each module, ``end`` of a stretch."""
END = ("end", Module())


@cached_by_settings(*TRAINED)
def modules_of(workload: Workload, num_layers: int | None) -> Modules:
    """Return the modules of a model, of its first layers alone where a number is given."""
    whole, model = parameters(workload), workload.model
    head = tuple(parameter for parameter in whole.after if parameter.module == "lm_head")
    norms = tuple(parameter for parameter in whole.after if parameter not in head)
    owns_weight = any(parameter.name == "lm_head" for parameter in head)
    layers = [
        _layer_modules(layer, is_leaf=kind.routed and model.model_type in LEAVES)
        for layer, kind in zip(whole.layers[:num_layers], model.layers, strict=False)
    ]
    inside = [module for layer in layers for module in layer.forward]
    outer = Module(
        leaves=tuple(module for module in inside if module.is_leaf),
        inside_elements=sum(module.elements for module in inside),
    )
    return Modules(
        around=[outer] * (2 if workload.method == "full" else 3),
        embedding=_modules(whole.before),
        positions=[Module()] * (model.position_params == 0),
        layers=layers,
        norm=Module(norms),
        head=Module(head if owns_weight else (*head, whole.before[0])),
    )


def script(workload: Workload, modules: Modules, *, checkpointing: int) -> Script:
    """Return a step as modules run. trl's fused loss reads the head's weight outside of its module,
    so that it belongs to the whole model and stays from the first module to the last."""
    embedding, head = modules.embedding, modules.head
    layers = list(zip(modules.layers, passed_layers(workload.model, checkpointing), strict=False))
    fused, adapts = workload.loss == "fused", workload.method != "full"
    trains = any(parameter.trains for module in embedding for parameter in module.params)
    *outer, inner = _events(modules.around, "fetch")
    norm = _events([modules.norm], "fetch", "release")
    events: Script = [*outer, *([("fetch", head)] if fused else []), inner]
    events += _events([*embedding, *modules.positions], "fetch", "release")
    events += [END]
    for layer, run in layers:
        kinds = ("fetch", "release") if run.recomputed else ("fetch", "save", "release")
        events += [*_events(layer.forward, *kinds), END]
    events += norm
    events += [] if fused else [("fetch", head)]
    events += [END, END, ("release", head), *outer, ("fetch", head), END]
    events += [] if fused else [("release", head)]
    events += [inner, *norm]
    reaches = trains or checkpointing > 0
    for number, (layer, run) in reversed(list(enumerate(layers))):
        behind = layer if reaches or number else _first_without_gradient(layer)
        events += [*_back(behind, recomputed=run.recomputed, adapts=adapts), END]
    if reaches:
        events += _events(reversed(embedding), "fetch")
    return [*events, END]


def _back(layer: LayerModules, *, recomputed: bool, adapts: bool) -> Iterator[tuple[str, Module]]:
    """Yield the backward pass of a layer. Where nothing is adapted a layer is recomputed when the
    first tensor is asked for that its forward pass has not saved, and else before all of it."""
    if not recomputed:
        yield from _events(layer.backward, "fetch", "spend", "release")
        return
    begun = 1 if adapts else layer.before_recomputing
    first, others = layer.backward[:begun], layer.backward[begun:]
    yield from _events(first, "fetch")
    yield from _events(layer.forward[1:], "again", "save", "release")
    yield from _events(first, "spend", "release")
    yield from _events(others, "fetch", "spend", "release")
    params = chain.from_iterable(module.params for module in layer.forward)
    yield "leave", Module(tuple(params))


def _first_without_gradient(layer: LayerModules) -> LayerModules:
    """Return the first layer where no gradient reaches its input: what frozen matrices read there
    needs none, so that backward does not pass them."""
    passed = [
        module
        for module in layer.backward
        if not any(
            not each.trains and each.name.split(".", 2)[2].startswith(READS_INPUT)
            for each in module.params
        )
    ]
    return LayerModules(layer.forward, passed)


def by_module(params: Iterable[Sized]) -> list[list[Sized]]:
    """Return parameters by their module, in order."""
    found: dict[str, list[Sized]] = {}
    for each in params:
        found.setdefault(each.module, []).append(each)
    return list(found.values())


def when_made(parameter: Sized) -> int:
    """Return when a parameter of a layer is made: attention, router and experts, the MLP or shared
    experts, norms; then, when all that is there, adapters."""
    name = parameter.name.split(".", 2)[2]
    if ".lora_" in name:
        return 4
    parts = (("router", "experts"), FED, ("norms",))
    return next((n for n, part in enumerate(parts, 1) if name.startswith(part)), 0)


def _events(modules: Iterable[Module], *kinds: str) -> Script:
    return [(kind, module) for module in modules for kind in kinds]


def _modules(params: Iterable[Sized]) -> list[Module]:
    return [Module(tuple(module)) for module in by_module(params)]


def _layer_modules(layer: Iterable[Sized], *, is_leaf: bool) -> LayerModules:
    """Return the modules of one layer: a norm, attention, the other norms, and the MLP or the
    mixture, which may be a leaf."""
    names = {module.params[0].name.split(".", 2)[2]: module for module in _modules(layer)}
    norms = [module for name, module in names.items() if name.startswith("norms")]
    matrices = [name for name in names if not name.startswith("norms")]
    begins = next((n for n, name in enumerate(matrices) if name.startswith(FED)), len(matrices))
    attention, fed = (
        [names[name] for name in part] for part in (matrices[:begins], matrices[begins:])
    )
    leaves: tuple[Module, ...] = ()
    if is_leaf:
        inside = chain.from_iterable(module.params for module in fed)
        leaves = (Module(tuple(sorted(inside, key=when_made)), is_leaf=True),)
    whole = Module(leaves=leaves, inside_elements=sum(module.elements for module in names.values()))
    return LayerModules(
        forward=[
            whole,
            *norms[:1],
            *_ran(attention),
            *norms[1:],
            *(leaves or _ran(fed)),
        ],
        backward=[
            whole,
            *(leaves or _ran(fed, backward=True)),
            *norms[:0:-1],
            *_ran(attention, backward=True),
            *norms[:1],
        ],
    )


def _ran(modules: Sequence[Module], *, backward: bool = False) -> list[Module]:
    """Return the module around these, then those in the order in which they run. An adapted matrix
    and its adapters have one around them, and a dropout between them."""
    groups: list[list[Module]] = []
    for module in modules:
        name = module.params[0].name
        if groups and ".lora_" in name and EXPERTS not in name:
            groups[-1].append(module)
        else:
            groups.append([module])
    around = Module(inside_elements=sum(module.elements for module in modules))
    ran = [around] if groups else []
    for matrix, *adapters in reversed(groups) if backward else groups:
        if not adapters:
            ran.append(matrix)
            continue
        outer = Module(inside_elements=sum(each.elements for each in (matrix, *adapters)))
        if backward:
            ran += [outer, *reversed(adapters), Module(), matrix]
        else:
            ran += [outer, matrix, Module(), *adapters]
    return ran
