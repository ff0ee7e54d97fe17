"""Hyper-parameters of CERL and its ablations, their presets, and the command line."""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from recipes.runs.folder import RunFolder

INITIAL_SHARE = 0.25
"""Share of the start states that begin an episode: few of its states, but they decide the rest."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Every setting of a run. Costs and budgets are per episode of environment steps."""

    preset: Literal["cpu", "pixels", "paper"] = "cpu"
    """Where the defaults come from: `cpu` learns in minutes, `pixels` from images within an hour on
    two cores, `paper` has the published sizes."""
    smoke: bool = False
    """Tiny sizes, to see in a minute that everything works."""
    task: str = "SafetyHalfCheetahVelocity-v1"
    """Safety-Gymnasium task."""
    observation: Literal["vector", "image"] = "vector"
    """What the agent sees: the task's features, or 64x64 images from the robot's camera, or
    on velocity tasks from the one that follows the body."""
    image_quality: Literal["exact", "fast"] = "exact"
    """The simulator's own picture, or a coarser one drawn in less time; see make_environment."""
    seed: int = 0
    """Seed of everything random."""
    out: Path | None = None
    """The run's folder; runs/<recipe>/<task>/seed<k>-<time> by default."""
    resume: Path | None = None
    """Go on with the run in this folder from its last checkpoint."""
    profile: bool = False
    """Print each part's share of the time at the end, and write a trace of one iterate."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where the networks are; environments, replay and noise are on the CPU."""
    compile: bool = False
    """Compile the parts of an update that repeat: for a GPU; takes a C++ compiler and minutes."""
    threads: int = 2
    """Threads for parts of an update that do not need each other; a third has nothing to do. The
    results are the same. With images also threads within operations, and the same but for
    roundings."""

    steps: int = 100_000
    """Environment steps, prefill included."""
    action_repeat: int = 2
    """Environment steps for each action."""
    episode_budget: float = 25.0
    """Expected cost allowed per episode."""
    prefill_scales: tuple[float, ...] = (0.25, 0.5, 1.0, 1.0, 1.0)
    """Exploration scale of each prefill episode; held back from the first cost on."""
    guard_share: float = 0.6
    """Share of its budget an episode may spend before the base policy takes over; 0: no guard."""
    budget_share: float = 0.4
    """Share of the budget that the policy is optimised for; the rest is margin."""
    evaluation_episodes: int = 10
    """Episodes of the final evaluation: mean action, no guard."""

    members: int = 5
    """Posterior samples K."""
    prior_scale: float = 0.5
    """Standard deviation of the transition weights' prior, in units of 1 / sqrt(fan_in)."""
    data_share: float = 0.8
    """Share of the data that each member sees."""
    cost_prior: float = 4.0
    """Median cost where nothing is known, in units of the budget's cost rate."""
    cost_prior_std: float = 2.0
    """How far members differ about it, in e-folds."""
    cost_length_scale: float = 1.0
    """Distance in the stochastic state over which a cost generalises."""
    cost_learning_rate: float = 3e-3
    """Adam's rate for the cost heads."""
    deter: int = 128
    """Size of the recurrent state."""
    stoch: int = 16
    """Size of the stochastic state."""
    hidden: int = 128
    """Width of hidden layers."""
    image_depth: int = 32
    """Channels of the first layer of the image encoder and of the last of the decoder."""
    image_std: float = 1.0
    """Standard deviation of a decoded pixel, whose range is 1: the smaller, the more it counts."""
    bfloat16: bool = False
    """Compute the image encoder's and decoder's layers in bfloat16; all else is float32."""
    reward_unit: float = 1.0
    """Size of a reward per agent step that matters: of reward head, critics and return scale."""
    noise_learning_rate: float = 6e-4
    """Adam's rate for the noise levels of the decoders, which start at one unit."""
    free_nats: float = 1.0
    """KL below which the latent is free."""
    kl_mix: float = 0.8
    """Share of the KL's gradient that trains the prior."""
    batch_size: int = 16
    """Sequences per model update."""
    seq_len: int = 32
    """Length of a training sequence, in agent steps."""
    recent_fraction: float = 0.4
    """Share of each batch drawn from the recent episodes."""
    recent_episodes: int = 5
    """How many episodes count as recent."""
    model_learning_rate: float = 6e-4
    """Adam's rate for the world model."""
    prefill_updates: int = 300
    """Model updates after the prefill."""
    updates_per_episode: int = 40
    """Model updates, and as many policy updates, after each episode."""

    horizon: int = 12
    """Imagined agent steps."""
    imagination_batch: int = 32
    """Start states of a policy update; each is imagined under every member."""
    start_episodes: int = 5
    """How many of the newest episodes, and of their beginnings, the start states are from."""
    start_replay_share: float = 0.25
    """Share of the start states that is from all episodes instead: those of policies long gone,
    whose costs a policy that breaks nothing any more goes on being charged for."""
    discount: float = 0.99
    """Of rewards, per agent step."""
    cost_discount: float = 0.99
    """Of costs, per agent step."""
    lambda_: float = 0.95
    """Weight of the longer returns."""
    entropy: float = 3e-4
    """Weight of the policy's entropy in the objective."""
    critic_learning_rate: float = 1e-3
    """Adam's rate for the critics."""
    target_rate: float = 0.1
    """Step of the slow critics towards the trained ones."""

    actor_learning_rate: float = 4e-4
    """Adam's rate for the policy, at the start."""
    actor_learning_rate_end: float = 1e-4
    """The same at the end of the run; it falls linearly."""
    eta: float = 0.1
    """Initial weight of the log barrier."""
    eta_decay: float = 0.9995
    """Factor on eta per feasible step."""
    eta_min: float = 0.01
    """eta does not decay below this."""
    constraint_smoothness: float = 300.0
    """Smoothness of the cost return (in budgets) in the step-size rule."""

    def __post_init__(self) -> None:
        for name in (
            "threads",
            "steps",
            "action_repeat",
            "members",
            "start_episodes",
            "horizon",
            "batch_size",
            "seq_len",
            "image_depth",
        ):
            _require(self, name, getattr(self, name) >= 1, "at least 1")
        _require(self, "episode_budget", 0 < self.episode_budget < math.inf, "above 0")
        _require(self, "guard_share", 0 <= self.guard_share <= 1, "from 0 (no guard) to 1")
        for name in ("reward_unit", "image_std"):
            _require(self, name, 0 < getattr(self, name) < math.inf, "above 0")
        _require(self, "budget_share", self.budget_share > 0, "above 0")
        _require(self, "prefill_scales", len(self.prefill_scales) >= 1, "at least one scale")
        _require(
            self,
            "horizon",
            self.horizon < self.seq_len,
            f"below seq_len={self.seq_len}, the length on which the dynamics are trained",
        )
        share = 1 - INITIAL_SHARE
        _require(
            self, "start_replay_share", 0 <= self.start_replay_share <= share, f"from 0 to {share}"
        )
        for name in ("discount", "cost_discount"):
            _require(self, name, 0 <= getattr(self, name) < 1, "from 0 to below 1")


SMOKE: dict[str, Any] = {
    "steps": 4000,
    "prefill_scales": (0.5, 1.0),
    "prefill_updates": 5,
    "updates_per_episode": 3,
    "evaluation_episodes": 1,
    "deter": 16,
    "stoch": 4,
    "hidden": 16,
    "image_depth": 2,
    "members": 2,
    "batch_size": 4,
    "seq_len": 12,
    "horizon": 5,
    "imagination_batch": 8,
}
PAPER: dict[str, Any] = {
    "steps": 1_000_000,
    "guard_share": 0.0,
    "budget_share": 1.0,
    "cost_prior": 1e-6,
    "deter": 200,
    "stoch": 60,
    "hidden": 200,
    "batch_size": 16,
    "seq_len": 50,
    "recent_fraction": 0.0,
    "model_learning_rate": 3e-4,
    "noise_learning_rate": 3e-4,
    "actor_learning_rate": 8e-5,
    "actor_learning_rate_end": 8e-5,
    "critic_learning_rate": 8e-5,
    "updates_per_episode": 100,
    "horizon": 15,
    "eta_decay": 1 / (1 + 8e-6),
    "eta_min": 0.0,
    "constraint_smoothness": 1.2e4,
}
PIXELS: dict[str, Any] = {
    "steps": 50_000,
    "observation": "image",
    "image_quality": "fast",
    "image_depth": 8,
    "action_repeat": 4,  # at 2, successive images hardly tell how fast the body is
    "cost_length_scale": 4.0,  # latents of images lie farther apart
    "reward_unit": 0.3,
    "seq_len": 16,
    "model_learning_rate": 1e-3,
    "noise_learning_rate": 3e-3,
    "entropy": 1e-3,
    "prefill_updates": 500,
    "updates_per_episode": 100,
}
PRESETS: dict[str, dict[str, Any]] = {"cpu": {}, "pixels": PIXELS, "paper": PAPER}


def parse(recipe: str, arguments: list[str], **defaults: Any) -> Config:
    """The configuration of a command line: preset, `--smoke`, the recipe's defaults, each flag.

    With `--resume` the stored configuration takes the preset's place, and a flag that differs
    from it is an error.
    """
    chosen = _value(arguments, "--resume")
    if chosen is not None:
        run = RunFolder.open(Path(chosen), recipe)
        stored = config_from_json(run.read_config())
        config = tyro.cli(Config, args=arguments, default=stored)
        run.check_config(to_json(config))
        return dataclasses.replace(config, out=run.path)
    preset = _value(arguments, "--preset") or "cpu"
    sizes = PRESETS.get(preset, {}) | (SMOKE if "--smoke" in arguments else {})
    settings: dict[str, Any] = {"preset": preset} | sizes | defaults
    if preset not in PRESETS:  # tyro's own message names the choices
        settings = {}
    return tyro.cli(Config, args=arguments, default=Config(**settings))


def to_json(config: Config) -> dict[str, Any]:
    """Plain values of every field."""
    fields = dataclasses.asdict(config)
    return {k: str(v) if isinstance(v, Path) else v for k, v in fields.items()}


def config_from_json(stored: dict[str, Any]) -> Config:
    """The configuration in a run's config.json, without where the run lives."""
    names = {field.name for field in dataclasses.fields(Config)} - {"out", "resume"}
    values: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in stored.items() if k in names
    }
    return Config(**values)


def _value(arguments: list[str], flag: str) -> str | None:
    for position, argument in enumerate(arguments):
        if argument == flag and position + 1 < len(arguments):
            return arguments[position + 1]
        if argument.startswith(f"{flag}="):
            return argument.removeprefix(f"{flag}=")
    return None


def _require(config: Config, name: str, holds: bool, allowed: str) -> None:
    if not holds:
        raise ValueError(f"{name}: got {getattr(config, name)}; allowed: {allowed}.")
