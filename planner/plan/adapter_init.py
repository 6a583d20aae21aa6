"""What adapters begin as, by peft's names (``init_lora_weights``), and which names are refused.

read: peft/tuners/lora/layer.py at 0.21.2, LoraLayer.update_layer.
"""

import re

from planner.base.phrases import Phrase

DEFAULT = "default"
"""Random A and zeros in B, with which the base is left as it is."""
OLORA = "olora"
"""The first columns of Q and rows of R of the weight (arXiv:2406.01775)."""
PISSA = "pissa"
"""The largest singular values and their vectors, of a whole decomposition (arXiv:2404.02948)."""
PISSA_FAST = re.compile(r"pissa_niter_([1-9]\d{0,3})")
"""The same by so many iterations of a decomposition of the adapter's rank."""
EXAMPLES = (DEFAULT, PISSA, "pissa_niter_16", OLORA)
REASONS = {
    "eva": Phrase(
        "EVA runs batches of the data through the model before the first step, and gives each "
        "matrix a rank of its own (peft 0.21.2, tuners/lora/eva.py, get_eva_state_dict), so that "
        "neither memory nor shapes are known before: take pissa or pissa_niter_16, which need no "
        "data"
    ),
    "loftq": Phrase(
        "LoftQ puts weights that are rounded to 4 bit in the place of the base's, unpacked in 16 "
        "bit (peft 0.21.2, tuners/lora/layer.py, loftq_init), so that it saves no memory and its "
        "adapter fits no published base: take method qlora with adapter.init default, or pissa "
        "in 16 bit"
    ),
}
"""Why beginnings of peft's that people know are refused."""


def check_init(name: str) -> None:
    """Raise ValueError for a name that is not a beginning, or is one that is refused."""
    if name in EXAMPLES or PISSA_FAST.fullmatch(name):
        return
    reason = REASONS.get(name)
    if reason is not None:
        raise ValueError(reason)
    raise ValueError(
        Phrase(
            "adapter.init {name} is not planned: choose {known}, or pissa_niter_ with another "
            "number of iterations",
            name=name,
            known=", ".join(EXAMPLES),
        )
    )


def iterations(name: str) -> int | None:
    """Return the iterations of a fast decomposition; None for another beginning.

    >>> iterations("pissa_niter_16")
    16
    """
    found = PISSA_FAST.fullmatch(name)
    return int(found[1]) if found else None
