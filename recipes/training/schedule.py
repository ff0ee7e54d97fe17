"""Iterate and exploration scale of each episode."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from math import ceil

from blocks import EpisodeRecord


@dataclass(frozen=True)
class Schedule:
    """A prefill of growing exploration, then iterates of about one whole episode.

    An iterate goes on while another episode of its mean length fits into ``episode_length`` steps:
    a whole episode is one iterate, and short episodes share one. The prefill has as many steps for
    each of its scales, and goes on until the replay holds ``prefill_rows`` rows.

    All is decided from the records, so a resumed run decides the same.

    Args:
        prefill_scales: exploration scales of the first episodes; the last one stays.
        episode_length: environment steps of a whole episode.
        action_repeat: environment steps per action.
        prefill_rows: rows that learning needs.
    """

    prefill_scales: tuple[float, ...]
    episode_length: int
    action_repeat: int = 1
    prefill_rows: int = 0

    def iterate(self, records: Sequence[EpisodeRecord]) -> int:
        """Return the index of the policy that acts next; the prefill's is 0."""
        if not records:
            return 0
        return records[-1].iterate + self.learns(records)

    def learns(self, records: Sequence[EpisodeRecord]) -> bool:
        """Return whether the newest episode was the last of its iterate."""
        if not records:
            return False
        iterate = records[-1].iterate
        episodes = list(takewhile(lambda record: record.iterate == iterate, reversed(records)))
        room = self.episode_length * (1 if iterate else len(self.prefill_scales))
        steps, count = sum(record.steps for record in episodes), len(episodes)
        enough = iterate > 0 or sum(map(self._rows, episodes)) >= self.prefill_rows
        return enough and steps * (count + 1) > room * count

    def scale(self, records: Sequence[EpisodeRecord]) -> float:
        """Choose the exploration scale of the next episode.

        In the prefill it grows until an episode has a cost, then stays at the last scale without
        one. Policies act at scale 1.
        """
        if self.iterate(records):
            return 1.0
        free = len(list(takewhile(lambda record: record.cost == 0, records)))
        step = min(free, len(self.prefill_scales) - 1)
        return self.prefill_scales[step if free == len(records) else max(0, step - 1)]

    def _rows(self, record: EpisodeRecord) -> int:
        """Count an episode's rows in the replay: its start, and each action of the policy."""
        return 1 + ceil((record.steps - record.fallback_steps) / self.action_repeat)
