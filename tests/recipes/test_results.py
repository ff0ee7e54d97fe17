"""What the members' differences are worth: figures counted by hand."""

import pytest

from recipes.training.results import pessimism_and_disagreement


def update(mean: float, worst: float, **more: float) -> dict[str, float]:
    return {"allowed": 0.5, "cost_mean": mean, "pessimism": worst - mean, **more}


def test_early_and_late_are_the_first_and_the_last_ten_updates() -> None:
    updates = [update(0.1, 0.2, disagreement_far=1.0)] * 10 + [update(0.3, 0.35)] * 10
    figures = pessimism_and_disagreement(updates)
    assert figures == pytest.approx(
        {
            "pessimism_early": 0.1,
            "pessimism_late": 0.05,
            "pessimism_share_early": 0.1 / 0.4,
            "pessimism_share_late": 0.05 / 0.2,
            "disagreement_far_early": 1.0,
        }
    )


def test_no_slack_has_no_share() -> None:
    assert "pessimism_share_early" not in pessimism_and_disagreement([update(0.5, 0.6)])


def test_a_run_of_prefill_alone_has_no_figures() -> None:
    assert pessimism_and_disagreement([]) == {}
