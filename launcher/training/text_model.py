"""The text model inside a causal language model: its layers, and what stands beside it.

Some classes hold a model of images or of sound as well. A run of texts alone never passes it, so
that it gets no adapter and stays as it is.
"""

import re
from collections.abc import Iterator
from typing import Any

from torch.nn import Linear, Module, ModuleList
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from planner.base.errors import UserError
from planner.base.phrases import Phrase


def is_matrix(module: Module) -> bool:
    """Return whether peft adapts modules of this kind under ``all-linear``."""
    return isinstance(module, Linear | Conv1D)


def decoder_layers(model: Any) -> ModuleList:
    """Return the stack of decoder layers: the list that is as long as the configuration says, else
    the longest one, among those of the text model.

    Raises ``UserError`` for a model without any list.
    """
    decoder = model.get_decoder()
    for place in (decoder, model):
        lists = [item for item in place.modules() if isinstance(item, ModuleList)]
        if lists:
            count = getattr(model.config.get_text_config(), "num_hidden_layers", None)
            return next((item for item in lists if len(item) == count), max(lists, key=len))
    raise UserError(Phrase("the model has no list of layers. Choose another model"))


def backbone(model: Any) -> Any:
    """Return the model without its head; some classes name one that is not there (Llama 4)."""
    return model.model if model.base_model is model else model.base_model


def towers(model: Any) -> tuple[str, ...]:
    """Return the names of the modules beside the text model that hold parameters of their own:
    models of images and of sound, and what joins them to the text.

    Raises ``UserError`` if texts enter by one of them: then the text model is several stacks.
    """
    layers, head = decoder_layers(model), model.get_output_embeddings()
    table = model.get_input_embeddings()
    found = tuple(
        name
        for name in _towers(model, "", layers, head)
        if any(one is not table.weight for one in model.get_submodule(name).parameters())
    )
    if any(part is table for name in found for part in model.get_submodule(name).modules()):
        raise UserError(
            Phrase(
                "texts pass {stacks} beside its layers, and a model of several stacks is not "
                "planned. Choose another model",
                stacks=", ".join(found),
            )
        )
    return found


def _towers(module: Module, place: str, layers: ModuleList, head: Any) -> Iterator[str]:
    """Yield the largest towers below a module that holds the layers: models of their own, and all
    that stands beside a model of text."""
    models = [child for child in module.children() if _is_model_around(child, layers)]
    for name, child in module.named_children():
        path = f"{place}{name}"
        if child is layers or child is head or not any(True for _ in child.parameters()):
            continue
        if any(item is layers for item in child.modules()):
            yield from _towers(child, f"{path}.", layers, head)
        elif models and models[0].__class__ is not _body_of(module):
            yield path
        else:
            yield from _nested_models(child, path)


def _is_model_around(module: Module, layers: ModuleList) -> bool:
    is_model = isinstance(module, PreTrainedModel)
    return is_model and any(item is layers for item in module.modules())


def _body_of(module: Module) -> type | None:
    """Return the class of a model's body, beside which a head and its norm may stand."""
    prefix = getattr(module, "base_model_prefix", "")
    body = getattr(module, prefix, None) if prefix else None
    return None if body is None else body.__class__


def _nested_models(module: Module, path: str) -> Iterator[str]:
    """Yield the largest models among a module and its children."""
    if isinstance(module, PreTrainedModel):
        yield path
        return
    for name, child in module.named_children():
        yield from _nested_models(child, f"{path}.{name}")


def outside_of_text(model: Any) -> str | None:
    """Return a pattern of the names of modules in towers, for peft; None without towers."""
    names = "|".join(map(re.escape, towers(model)))
    return rf"(.*\.)?({names})(\..*)?" if names else None
