"""Iterate and exploration scale of each episode."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from blocks import EpisodeRecord


@dataclass(frozen=True)
class Schedule:
    """A prefill of growing exploration, then one iterate per episode.

    Args:
        prefill_scales: exploration scale of each prefill episode.
    """

    prefill_scales: tuple[float, ...]

    def iterate(self, episodes: int) -> int:
        """Return the index of the policy that acts after this many episodes; the prefill's is 0."""
        return max(0, episodes - len(self.prefill_scales) + 1)

    def scale(self, records: Sequence[EpisodeRecord]) -> float:
        """Choose the exploration scale of the next episode.

        In the prefill it grows until an episode has a cost, then stays at the last scale without
        one. Policies act at scale 1.
        """
        if self.iterate(len(records)):
            return 1.0
        free = len(list(takewhile(lambda record: record.cost == 0, records)))
        return self.prefill_scales[free if free == len(records) else max(0, free - 1)]
