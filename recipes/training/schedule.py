"""When a run explores how much, and when it ends."""

from collections.abc import Sequence
from dataclasses import dataclass

from blocks import EpisodeRecord


@dataclass(frozen=True)
class Schedule:
    """A prefill of slowly growing exploration, then one iterate an episode until the steps end.

    Args:
        steps: environment steps of the run, prefill included.
        prefill_scales: exploration scale of each prefill episode.
    """

    steps: int
    prefill_scales: tuple[float, ...]

    def iterate(self, episodes: int) -> int:
        """Index of the policy that acts after so many episodes; the prefill's is 0."""
        return max(0, episodes - len(self.prefill_scales) + 1)

    def scale(self, records: Sequence[EpisodeRecord]) -> float:
        """Exploration scale of the next episode.

        In the prefill it grows only while no episode has cost anything; after a cost it stays at
        the last scale that had none. Policies act at scale 1.
        """
        if self.iterate(len(records)):
            return 1.0
        clean = 0
        for record in records:
            if record.cost > 0:
                return self.prefill_scales[max(0, clean - 1)]
            clean += 1
        return self.prefill_scales[clean]
