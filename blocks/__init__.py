"""Composable blocks for safe model-based reinforcement learning, in the order data flows.

Names load on first use, so that one block can be imported without what the others need:
``from blocks import make_environment`` works where torch is not installed.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blocks.actor import Actor as Actor
    from blocks.aggregators import cvar as cvar
    from blocks.aggregators import mean as mean
    from blocks.aggregators import mean_plus_std as mean_plus_std
    from blocks.aggregators import of_policy as of_policy
    from blocks.aggregators import per_state as per_state
    from blocks.aggregators import quantile as quantile
    from blocks.aggregators import worst_case as worst_case
    from blocks.barrier import log_barrier as log_barrier
    from blocks.barrier_adam import BarrierAdam as BarrierAdam
    from blocks.budget_guard import BudgetGuard as BudgetGuard
    from blocks.confidence import estimation_errors as estimation_errors
    from blocks.critic import Critic as Critic
    from blocks.cuda_graph import Graphed as Graphed
    from blocks.cuda_graph import with_gradient as with_gradient
    from blocks.decoders import CostHead as CostHead
    from blocks.decoders import ImageDecoder as ImageDecoder
    from blocks.decoders import RewardHead as RewardHead
    from blocks.decoders import VectorDecoder as VectorDecoder
    from blocks.encoders import ImageEncoder as ImageEncoder
    from blocks.encoders import VectorEncoder as VectorEncoder
    from blocks.ensemble_posterior import EnsemblePosterior as EnsemblePosterior
    from blocks.environments import make_environment as make_environment
    from blocks.imagination import imagine as imagine
    from blocks.lagrangian import AugmentedLagrangian as AugmentedLagrangian
    from blocks.lagrangian import PIDLagrangian as PIDLagrangian
    from blocks.latents import Categorical as Categorical
    from blocks.latents import Gaussian as Gaussian
    from blocks.lbsgd import LBSGD as LBSGD
    from blocks.lbsgd import lbsgd_step_size as lbsgd_step_size
    from blocks.normalizer import Normalizer as Normalizer
    from blocks.parallel_environments import ParallelEnvironments as ParallelEnvironments
    from blocks.replay import SequenceReplay as SequenceReplay
    from blocks.returns import discounted_budget as discounted_budget
    from blocks.returns import lambda_returns as lambda_returns
    from blocks.rssm import RSSM as RSSM
    from blocks.safety_metrics import EpisodeRecord as EpisodeRecord
    from blocks.safety_metrics import safety_summary as safety_summary
    from blocks.smoothness import SecantSmoothness as SecantSmoothness
    from blocks.threads import set_threads as set_threads
    from blocks.threads import side_by_side as side_by_side
    from blocks.types import State as State
    from blocks.types import Transitions as Transitions
    from blocks.world_model import WorldModel as WorldModel

_HOME = {
    "State": "types",
    "Transitions": "types",
    "make_environment": "environments",
    "ParallelEnvironments": "parallel_environments",
    "SequenceReplay": "replay",
    "Normalizer": "normalizer",
    "VectorEncoder": "encoders",
    "ImageEncoder": "encoders",
    "Gaussian": "latents",
    "Categorical": "latents",
    "RSSM": "rssm",
    "EnsemblePosterior": "ensemble_posterior",
    "VectorDecoder": "decoders",
    "ImageDecoder": "decoders",
    "RewardHead": "decoders",
    "CostHead": "decoders",
    "WorldModel": "world_model",
    "Actor": "actor",
    "Critic": "critic",
    "imagine": "imagination",
    "lambda_returns": "returns",
    "discounted_budget": "returns",
    "worst_case": "aggregators",
    "mean": "aggregators",
    "quantile": "aggregators",
    "cvar": "aggregators",
    "mean_plus_std": "aggregators",
    "of_policy": "aggregators",
    "per_state": "aggregators",
    "log_barrier": "barrier",
    "lbsgd_step_size": "lbsgd",
    "LBSGD": "lbsgd",
    "estimation_errors": "confidence",
    "SecantSmoothness": "smoothness",
    "BarrierAdam": "barrier_adam",
    "AugmentedLagrangian": "lagrangian",
    "PIDLagrangian": "lagrangian",
    "BudgetGuard": "budget_guard",
    "EpisodeRecord": "safety_metrics",
    "safety_summary": "safety_metrics",
    "Graphed": "cuda_graph",
    "with_gradient": "cuda_graph",
    "set_threads": "threads",
    "side_by_side": "threads",
}

__all__ = list(_HOME)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'blocks' has no attribute {name!r}")
    # No module may have the name of what it holds: importing it would hide the other.
    value = getattr(import_module(f"blocks.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
