"""The README's table of runs: figures are copied, counted or averaged as said."""

import json
from pathlib import Path
from typing import Any

import pytest

from recipes import summary_table


def write(folder: Path, **changes: Any) -> str:
    folder.mkdir()
    summary = {
        "recipe": "cerl_full",
        "members": 5,
        "guard_share": 0.6,
        "seed": 0,
        "environment_steps": 1000,
        "policy_violations": 0,
        "episode_violations": 1,
        "worst_episode_cost": 30.0,
        "cost_rate": 0.01,
        "guard_episodes": 2,
        "final_return": 100.0,
        "final_cost": 1.0,
        "wall_seconds": 60.0,
    }
    (folder / "summary.json").write_text(json.dumps(summary | changes))
    return str(folder)


def test_seeds_are_put_together_by_interquartile_mean_sum_and_maximum(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    returns = [100.0, 200.0, 300.0, 400.0, 9000.0]  # the outliers at either end do not count
    folders = [
        write(tmp_path / str(seed), seed=seed, final_return=value, worst_episode_cost=10.0 * seed)
        for seed, value in enumerate(returns)
    ]
    summary_table.main(folders)
    rows = capsys.readouterr().out.splitlines()
    assert rows.index("") == 2 + 5 + 1
    cells = [cell.strip() for cell in rows[7].strip("|").split("|")]
    assert cells[:5] == ["cerl_full", "all 5", "1,000", "0", "5"]
    assert cells[5] == "40"  # the worst of all
    assert cells[8] == "300"


def test_kinds_of_run_are_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary_table.main(
        [
            write(tmp_path / "a"),
            write(tmp_path / "b", members=1),
            write(tmp_path / "c", guard_share=0.0),
            write(tmp_path / "d", environment_steps=500),
        ]
    )
    above, _ = capsys.readouterr().out.split("\n\n")
    titles = [row.split("|")[1].strip() for row in above.splitlines()[2:]]
    assert titles == ["cerl_full, K = 1", "cerl_full, no guard", "cerl_full", "cerl_full"]


def test_what_pessimism_was_worth_is_shown_where_it_was_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = {
        f"{name}_{when}": 0.25 for name in summary_table.PESSIMISM for when in ("early", "late")
    }
    folders = [write(tmp_path / "a", seed=7, **figures), write(tmp_path / "b", members=1)]
    del figures["pessimism_share_late"]  # the members' mean had no slack
    summary_table.main([*folders, write(tmp_path / "c", seed=8, **figures)])
    _, below = capsys.readouterr().out.split("\n\n")
    first, second = below.splitlines()[2:]
    assert first.startswith("| cerl_full | 7 | 1,000 | 25% | 25% | 0.25 |")
    assert second.startswith("| cerl_full | 8 | 1,000 | 25% | - | 0.25 |")


def test_a_folder_without_a_summary_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"no summary to read in .*nothing"):
        summary_table.main([str(tmp_path / "nothing")])
