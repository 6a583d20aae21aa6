"""No prediction moves unseen."""

from tests.golden.predictions import FILE, predictions


def test_predictions_are_those_accepted() -> None:
    accepted = FILE.read_text(encoding="utf-8").splitlines()
    predicted = predictions().splitlines()
    moved = [line for line in predicted if line not in accepted]
    assert not moved, "accept with: python -m tests.golden.predictions\n" + "\n".join(moved[:20])
    assert predicted == accepted
