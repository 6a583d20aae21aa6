"""Data sets by their name on the hub, fetched by ``datasets`` and kept where it keeps them."""

from pathlib import Path

from planner.base.errors import InvalidRequestError
from planner.plan.data_section import DataSource


def fetched(source: DataSource) -> tuple[Path, ...]:
    """Arrow files of one split, in order; fetched at the first call, found later."""
    from datasets import Dataset, load_dataset
    from huggingface_hub.errors import HfHubHTTPError

    try:
        found = load_dataset(source.source, source.subset, split=source.split)
    except (OSError, ValueError, HfHubHTTPError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise InvalidRequestError(
            f"data set {source.source}: it is no file here, and the hub has not given it "
            f"({type(error).__name__}: {reason}). Name a local file with --data FILE."
        ) from error
    assert isinstance(found, Dataset)
    return tuple(Path(file["filename"]) for file in found.cache_files)
