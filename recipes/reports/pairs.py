"""Which recipe is better, pair by pair: probabilities of improvement, pooled over common tasks."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from recipes.reports.groups import Group
from recipes.reports.statistics import Estimate, improvement
from recipes.reports.tables import Cell, Row, shown

COMPARED = {
    "final_return": "higher final return",
    "policy_violations": "fewer policy violations",
    "cost_rate": "lower cost rate",
}
"""What recipes are compared on, and which way is better."""


@dataclass(frozen=True)
class Pairs:
    """Recipes, and for each figure in `COMPARED` how probably one is better than another."""

    names: tuple[str, ...]
    steps: int
    better: dict[str, dict[tuple[int, int], Estimate]]  # by places in `names`

    def table(self) -> list[Row]:
        """A row a pair, each pair once."""
        return [
            {"recipe": Cell(self.names[i]), "against": Cell(self.names[j])}
            | {COMPARED[figure]: shown(found[i, j]) for figure, found in self.better.items()}
            for i, j in combinations(range(len(self.names)), 2)
            if (i, j) in self.better["final_return"]
        ]


def compare(entrants: Sequence[Sequence[Group]]) -> list[Pairs]:
    """Compare recipes, one `Pairs` for each number of steps that at least two of them have.

    Args:
        entrants: each recipe's groups, one a task, all of the same number of steps.
    """
    of_length: dict[int, list[Sequence[Group]]] = {}
    for groups in entrants:
        of_length.setdefault(groups[0].steps, []).append(groups)
    return [
        Pairs(
            tuple(groups[0].recipe for groups in rivals),
            steps,
            {figure: _improvements(rivals, figure) for figure in COMPARED},
        )
        for steps, rivals in of_length.items()
        if len(rivals) > 1
    ]


def _improvements(
    rivals: Sequence[Sequence[Group]], figure: str
) -> dict[tuple[int, int], Estimate]:
    """Both ways round; a pair without a common task is left out."""
    higher = COMPARED[figure].startswith("higher")
    found = {}
    for i, j in combinations(range(len(rivals)), 2):
        first, second = ({g.task: g.values(figure) for g in rivals[k]} for k in (i, j))
        common = [task for task in first if task in second]
        if common:
            over = improvement([first[t] for t in common], [second[t] for t in common])
            under = Estimate(1 - over.value, 1 - over.upper, 1 - over.lower)
            found[i, j], found[j, i] = (over, under) if higher else (under, over)
    return found
