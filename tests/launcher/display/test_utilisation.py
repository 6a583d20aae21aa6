"""Where a step goes, by rank, and what is named of it."""

from launcher.display.utilisation import PredictedParts, RankParts, losses_of, rank_times

PREDICTED = PredictedParts(backward_over_forward=2.0, communication_share=0.05, launch_share=0.02)
BUSY = RankParts(data_s=0.0, forward_s=1.0, backward_s=2.0, update_s=0.1, other_s=0.0)


def rank(**changes: float) -> RankParts:
    parts = {name: getattr(BUSY, name) for name in BUSY.__dataclass_fields__}
    return RankParts(**{**parts, **changes})


def causes(*ranks: RankParts, **options: float) -> list[str]:
    return [loss.cause for loss in losses_of(ranks, PREDICTED, **options)]


def test_a_busy_device_has_no_line() -> None:
    assert causes(BUSY) == []
    assert causes(BUSY, BUSY) == []


def test_a_single_rank_waits_for_nobody() -> None:
    """A backward pass that takes longer than predicted is computing."""
    (times,) = rank_times([rank(backward_s=4.0)], PREDICTED)
    assert (times.compute_s, times.communication_s, times.waiting_s) == (5.1, 0.0, 0.0)


def test_the_others_wait_for_the_slow_rank() -> None:
    slow, fast = rank(forward_s=2.0, backward_s=4.0), rank(backward_s=5.0)
    times = rank_times([fast, slow, fast], PREDICTED)
    assert [each.waiting_s for each in times] == [3.0, 0.0, 3.0]
    (loss,) = losses_of([fast, slow, fast], PREDICTED)
    assert loss.text.startswith("rank 1 is slower: others wait for it 49 % of a step")


def test_the_others_wait_for_a_late_host() -> None:
    late, fast = rank(other_s=1.0), rank(agreement_s=1.0)
    assert [each.waiting_s for each in rank_times([fast, late], PREDICTED)] == [1.0, 0.0]
    (loss,) = losses_of([fast, late], PREDICTED)
    assert loss.cause == "late rank"
    assert loss.text.startswith("rank 1 is late between two steps: others wait for its host 24 %")


def test_who_waits_for_a_reader_is_not_named_again() -> None:
    assert causes(rank(agreement_s=1.0), rank(data_s=1.0)) == ["data"]


def test_all_ranks_wait_for_a_slow_link() -> None:
    assert causes(rank(backward_s=3.0), rank(backward_s=3.0)) == ["slow link"]


def test_predicted_communication_is_no_fault() -> None:
    predicted = PredictedParts(backward_over_forward=2.0, communication_share=0.3, launch_share=0.0)
    slow = [rank(backward_s=3.0)] * 2
    assert losses_of(slow, predicted) == []


def test_a_slow_reader_on_one_rank_is_told_from_one_on_all() -> None:
    late = rank(data_s=2.0)
    assert "on rank 1 takes" in losses_of([BUSY, late], PREDICTED)[0].text
    assert "waiting for data takes 39 %" in losses_of([late, late], PREDICTED)[0].text


def test_saving_and_launches() -> None:
    assert causes(BUSY, saving_share=0.2) == ["saving"]
    predicted = PredictedParts(backward_over_forward=2.0, communication_share=0.0, launch_share=0.4)
    assert [loss.cause for loss in losses_of([BUSY], predicted)] == ["launches"]
