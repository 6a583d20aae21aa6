"""Files of a text model inside a wrapper, of which transformers builds the text model alone."""

from collections.abc import Callable

from msgspec import structs

from planner.models.architectures.keys import Config
from planner.models.model_spec import ModelSpec


def of_wrapper(config: Config, read: Callable[[Config], ModelSpec]) -> ModelSpec:
    """Return the shape of the text model inside a wrapper, which is what transformers builds."""
    text = config.part("text_config")
    if not text.content:
        return read(config)
    left_out = tuple(name for name in ("vision_config",) if name in config.content)
    return structs.replace(read(text), left_out=left_out)
