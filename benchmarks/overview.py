"""Predicted memory and speed by model, method and card.

``python -m benchmarks.overview [--write]`` prints the table, or puts it into the
READMEs of all languages.

Nothing here is measured: the table shows what ``plan`` says of popular models and cards.
"""

import argparse
from collections.abc import Mapping

from benchmarks.marks import READMES, Marks
from planner.base.errors import NothingFitsError
from planner.base.phrases import Language, Phrase, speak, spoken
from planner.base.preset_files import translations
from planner.base.units import GIB
from planner.decision.choose import decide
from planner.decision.request import Request
from planner.hardware.detect import parse_gpus
from planner.models.model_presets import load_model
from planner.plan.vocabulary import METHOD_NAMES, METHODS, Method

MODELS = ("llama-3.2-3b", "llama-3.1-8b", "qwen2.5-14b", "llama-3.1-70b")
CARDS = {
    "rtx-4060-ti-16gb": "RTX 4060 Ti 16 GB",
    "rtx-4090": "RTX 4090",
    "a100-sxm-80gb": "A100 80 GB",
    "8xh100": "8 x H100 80 GB",
}
"""Machines as ``--gpus`` spells them, and the head of their column."""
TOKENS = 2048
MARKS = Marks("<!-- overview -->", "<!-- end of overview -->")


def tables() -> dict[Language, str]:
    """Return the table in each language: GiB per GPU in the worst case, and tokens/s of the whole
    machine."""
    rows = {
        (model, method): " | ".join(cell(model, method, card) for card in CARDS)
        for model in MODELS
        for method in METHODS
    }
    return {language: _table(rows, language) for language in READMES}


def _table(rows: Mapping[tuple[str, Method], str], language: Language) -> str:
    speak(translations(language))
    heads = [spoken(Phrase("model")), spoken(Phrase("method")), *CARDS.values()]
    lines = [
        f"| {' | '.join(heads)} |",
        f"|---|---|{'---:|' * len(CARDS)}",
    ]
    for (model, method), cells in rows.items():
        lines.append(f"| {model} | {spoken(METHOD_NAMES[method])} | {cells} |")
    speak({})
    return "\n".join(lines)


def cell(model: str, method: Method, card: str) -> str:
    """Return GiB and tokens/s of the plan that is chosen, or a dash if none fits the cards with
    the recipe's own optimizer and without offload."""
    request = Request(
        model=load_model(model),
        cluster=parse_gpus(card),
        method=method,
        sequence_length=TOKENS,
        optimizer="adamw_torch_fused",
        offload="none",
    )
    try:
        chosen = decide(request).chosen
    except NothingFitsError:
        return "-"
    speed = chosen.tokens_per_second
    assert speed is not None  # every card of the table has published rates
    return f"{chosen.memory.high_bytes / GIB:.1f} GiB, {speed:,.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="put the table into the READMEs")
    options = parser.parse_args()
    made = tables()
    print(made["en"])
    if options.write:
        for language, table in made.items():
            MARKS.write(READMES[language], table)


if __name__ == "__main__":
    main()
