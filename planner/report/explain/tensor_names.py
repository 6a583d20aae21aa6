"""The names of tensors on the tape, made so that they can be said in other languages.

The tape names a tensor in English while a step runs on it; a name may hold the name of the tensor
or the matrix that it was made from.
"""

import re

from planner.base.phrases import Phrase

_GRADIENT_OF_PART = re.compile(r"gradient of (\S+|.+ in fp32)'s (.+)")
_CHANGED_GRADIENT = re.compile(r"gradient of (.+), (summed|scattered|gathered|negated|copied)")
_GRADIENT = re.compile(r"gradient of (.+)")
_NOISE = re.compile(r"noise of (.+)")
_MASK = re.compile(r"mask of (.+)")
_WITH_ADAPTER = re.compile(r"(\S+) with its adapter")
_INT32 = re.compile(r"(\S+) in int32")
_MADE = re.compile(r"(.+): (.+)")


def tensor_words(name: str) -> str:
    """Return the name of a tensor as a phrase, whose words presets/languages have by themselves.

    >>> tensor_words("gradient of q_proj's input").template
    "gradient of {tensor}'s {part}"
    """
    if match := _GRADIENT_OF_PART.fullmatch(name):
        return Phrase(
            "gradient of {tensor}'s {part}", tensor=Phrase(match[1]), part=Phrase(match[2])
        )
    if match := _CHANGED_GRADIENT.fullmatch(name):
        tensor, how = tensor_words(match[1]), Phrase(match[2])
        return Phrase("gradient of {tensor}, {how}", tensor=tensor, how=how)
    if (phrase := _of_another(name)) is not None:
        return phrase
    if match := _WITH_ADAPTER.fullmatch(name):
        return Phrase("{tensor} with its adapter", tensor=match[1])
    if match := _INT32.fullmatch(name):
        return Phrase("{tensor} in int32", tensor=match[1])
    if match := _MADE.fullmatch(name):
        return Phrase("{tensor}: {what}", tensor=Phrase(match[1]), what=Phrase(match[2]))
    return Phrase(name)


def _of_another(name: str) -> Phrase | None:
    """Return the phrase of what belongs to one other tensor; None where it does not."""
    if match := _GRADIENT.fullmatch(name):
        return Phrase("gradient of {tensor}", tensor=tensor_words(match[1]))
    if match := _MASK.fullmatch(name):
        return Phrase("mask of {tensor}", tensor=tensor_words(match[1]))
    if match := _NOISE.fullmatch(name):
        return Phrase("noise of {tensor}", tensor=tensor_words(match[1]))
    return None
