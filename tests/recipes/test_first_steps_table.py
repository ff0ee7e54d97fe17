"""How runs began: counted by hand, and what the documents say of the committed runs."""

import json
from pathlib import Path
from typing import Any

import pytest
from first_steps_table import Options, first_steps, main

RESULTS = Path(__file__).parents[2] / "docs" / "results"


def episode(step: int, iterate: int, cost: float, fallback_steps: int = 0) -> dict[str, Any]:
    return {
        "kind": "episode",
        "step": step,
        "iterate": iterate,
        "episode_cost": cost,
        "episode_return": 0.0,
        "fallback_steps": fallback_steps,
    }


def test_what_comes_later_does_not_count() -> None:
    rows = [
        episode(1000, 0, 0.0),
        {"kind": "update", "cost_mean": 0.1, "cost_worst": 0.2, "pessimism": 0.1},
        episode(2000, 1, 30.0, fallback_steps=10),
        episode(3000, 2, 99.0, fallback_steps=10),
    ]
    figures = first_steps(rows, Options((), steps=2000, budget_share=0.5))
    assert figures == pytest.approx([2, 1, 1, 30.0 / 2000, 2.0, 0.1 / 0.4])


def test_what_the_documents_say_of_the_committed_runs() -> None:
    files = sorted(RESULTS.glob("cerl_full-seed*.metrics.jsonl"))
    runs = [
        first_steps([json.loads(line) for line in file.read_text().splitlines()], Options(()))
        for file in files
    ]
    _, violations, guard, rates, ratios, shares = zip(*runs, strict=True)
    assert violations == (0, 0, 0, 0, 0)
    assert guard == (6, 2, 4, 3, 2)
    assert [round(rate, 4) for rate in rates] == [0.0042, 0.0020, 0.0029, 0.0022, 0.0018]
    assert [round(ratio, 2) for ratio in ratios] == [1.62, 1.27, 1.36, 1.37, 1.45]
    assert [round(share, 2) for share in shares] == [0.24, 0.09, 0.08, 0.14, 0.17]


def test_a_file_that_is_no_metrics_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"no metrics to read in .*nothing"):
        main(Options((tmp_path / "nothing",)))
