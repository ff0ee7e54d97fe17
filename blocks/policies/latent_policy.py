"""Policy to take away: filter and actor without world model, replay or noise."""

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

from blocks.actor import Actor
from blocks.categorical_actor import CategoricalActor
from blocks.rssm import RSSM
from blocks.types import State


class LatentPolicy(nn.Module):
    """Acts in the latent state without noise: the mode of the latent, then of the action.

    ``deter = f(last state, last action)``, ``stoch = mode q(. | deter, embed)`` and
    ``action = mode pi(. | deter, stoch)``. The same observations since ``reset`` give the same
    actions. Use it at the action repeat of its training.

    Args:
        normalizer: observation -> normalised observation; ``nn.Identity()`` for images.
        encoder: normalised observation -> embed.
        rssm: the filter.
        actor: feat -> action in [-1, 1].
        low: smallest action of the environment, ``[action]``.
        high: largest action of the environment, ``[action]``.
        observation_shape: shape of one observation.
        observation_dtype: its dtype, float32 or uint8 (images).

    Attributes:
        about: what ``load_policy`` knows of its origin: task, seed, settings, results.

    Raises:
        ValueError: the bounds are not those of the actor's action.

    Example:
        >>> from blocks import Actor, RSSM, VectorEncoder
        >>> policy = LatentPolicy(
        ...     nn.Identity(), VectorEncoder(3, embed_size=4), RSSM(embed_size=4, action_size=1),
        ...     Actor(260, 1), low=[-2.0], high=[4.0], observation_shape=(3,),
        ... )
        >>> policy.act(np.zeros(3, np.float32))  # an untrained policy keeps to the middle
        array([1.], dtype=float32)
    """

    def __init__(
        self,
        normalizer: nn.Module,
        encoder: nn.Module,
        rssm: RSSM,
        actor: Actor | CategoricalActor,
        *,
        low: ArrayLike,
        high: ArrayLike,
        observation_shape: tuple[int, ...],
        observation_dtype: str | np.dtype[Any] = "float32",
    ) -> None:
        super().__init__()
        self.normalizer, self.encoder, self.rssm, self.actor = normalizer, encoder, rssm, actor
        self.low, self.high = np.asarray(low, np.float32), np.asarray(high, np.float32)
        expected = (actor.action_size,)
        ordered = np.isfinite(self.low) & np.isfinite(self.high) & (self.low < self.high)
        if self.low.shape != expected or self.high.shape != expected or not ordered.all():
            raise ValueError(
                f"low, high: got {self.low.tolist()} and {self.high.tolist()}; allowed finite "
                f"bounds of shape {expected} with low < high; take the environment's action_space"
            )
        self.observation_shape = tuple(observation_shape)
        self.observation_dtype: np.dtype[Any] = np.dtype(observation_dtype)
        self.about: Mapping[str, Any] = {}
        self.reset()

    def reset(self) -> None:
        """Begin an episode: forget the last one."""
        self._state = self.rssm.initial(1)
        self._last_action = self._state.deter.new_zeros(1, self.actor.action_size)

    def act(self, observation: NDArray[Any]) -> NDArray[np.float32]:
        """Filter one observation and choose an action.

        Args:
            observation: ``[*observation_shape]``; images are bytes.

        Returns:
            Action ``[action]``, from ``low`` to ``high``. Of a ``CategoricalActor`` its largest
            entry is the index of the action chosen.

        Raises:
            ValueError: wrong shape or dtype, NaN or infinity.
        """
        action = self.unit_action(observation)
        return (self.high + self.low) / 2 + (self.high - self.low) / 2 * action

    @torch.no_grad()
    def unit_action(self, observation: NDArray[Any]) -> NDArray[np.float32]:
        """Choose an action as ``act`` does, in [-1, 1]."""
        seen = torch.as_tensor(self._checked(observation), device=self._last_action.device)[None]
        deter, _ = self.rssm.transition(self._state, self._last_action)
        posterior = self.rssm.posterior(deter, self.encoder(self.normalizer(seen)))
        self._state = State(deter, posterior.mode())
        self._last_action = self.actor.mode(self._state.feat)
        return cast(Any, self._last_action[0].cpu()).numpy()

    def _checked(self, observation: NDArray[Any]) -> NDArray[Any]:
        given, dtype = np.asarray(observation), self.observation_dtype
        fits = given.dtype == dtype or (dtype.kind == "f" and given.dtype.kind in "fiu")
        if given.shape != self.observation_shape or not fits:
            raise ValueError(
                f"observation: got {given.dtype} of shape {given.shape}; allowed {dtype} of shape "
                f"{self.observation_shape}; give what the policy was trained on"
            )
        if not np.isfinite(given).all():
            raise ValueError(
                "observation: got NaN or infinity; allowed finite numbers; look for the step that "
                "produced it"
            )
        return np.ascontiguousarray(given, dtype)
