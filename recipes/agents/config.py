"""Settings of a run, in groups; presets with their defaults."""

import dataclasses
import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self, get_type_hints

from recipes.runs.errors import RunError
from recipes.runs.folder import DESCRIPTION, HISTORY, RunFolder

INITIAL_SHARE = 0.25
"""Share of the start states at the beginning of an episode."""
ERROR_GROUPS = 8
"""Groups of start states whose spread gives the errors of an estimate."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """World model: sizes, data and learning."""

    deter_size: int = 128
    """Size of the recurrent state."""
    stoch_size: int = 16
    """Size of the stochastic state."""
    hidden_size: int = 128
    """Width of hidden layers, of the policy and the critics too."""
    image_depth: int = 32
    """Channels of the first layer of the image encoder and of the last of the decoder."""
    image_std: float = 1.0
    """Standard deviation of a decoded pixel, whose range is 1; smaller values weigh images more."""
    bfloat16: bool = False
    """Compute the layers of image encoder and decoder in bfloat16, the rest in float32."""
    reward_unit: float = 1.0
    """Reward per agent step that matters; scales reward head, critics and return scale."""
    free_nats: float = 1.0
    """KL below which the latent costs nothing."""
    kl_mix: float = 0.8
    """Share of the KL's gradient that trains the prior."""
    batch_size: int = 16
    """Sequences per model update."""
    seq_len: int = 32
    """Length of a training sequence, in agent steps."""
    recent_fraction: float = 0.4
    """Share of each batch drawn from the recent episodes."""
    recent_episodes: int = 5
    """Number of episodes that count as recent."""
    costly_fraction: float = 0.25
    """Share of each batch drawn around rows with a cost: rare costs are learned at once, and their
    rate is overestimated where costly states cannot be told from others."""
    model_learning_rate: float = 6e-4
    """Adam's rate for the world model."""
    noise_learning_rate: float = 6e-4
    """Adam's rate for the noise levels of the decoders, which start at one unit."""
    prefill_updates: int = 300
    """Model updates after the prefill."""
    updates_per_episode: int = 40
    """Model updates, and as many policy updates, after each episode."""

    @property
    def feat_size(self) -> int:
        """Size of the latent state."""
        return self.deter_size + self.stoch_size


@dataclass(frozen=True, kw_only=True)
class PosteriorConfig:
    """Posterior over the weights of transition and cost head."""

    members: int = 5
    """Number K of posterior samples."""
    prior_scale: float = 0.5
    """Standard deviation of the transition weights' prior, in units of 1 / sqrt(fan_in)."""
    cost_prior: float = 4.0
    """Median cost where nothing is known, in units of the budget's cost rate."""
    cost_prior_std: float = 2.0
    """Spread of the members' costs there, in e-folds."""
    cost_length_scale: float = 4.0
    """Distance over which costs generalise, in standard deviations of the stochastic state."""
    cost_learning_rate: float = 3e-3
    """Adam's rate for the cost heads."""


@dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """Imagination, critics and policy."""

    horizon: int = 12
    """Imagined agent steps."""
    check_horizon: int = 50
    """Imagined agent steps in which a new policy's cost is checked before it acts; 0: no check."""
    imagination_batch_size: int = 32
    """Start states of a policy update; each is imagined under every member."""
    start_episodes: int = 5
    """Newest episodes from which the start states come."""
    start_replay_share: float = 0.25
    """Share of start states drawn from the whole replay; old, costly states keep raising the cost
    estimate of a policy that is now safe."""
    discount: float = 0.99
    """Discount of rewards, per agent step."""
    cost_discount: float = 0.99
    """Discount of costs, per agent step."""
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
    actor_learning_rate_end: float = 2e-5
    """Adam's rate for the policy at the end of the run; it falls linearly."""


@dataclass(frozen=True, kw_only=True)
class SafetyConfig:
    """Budget, guard, safe start and log barrier."""

    episode_budget: float = 25.0
    """Expected cost allowed per episode of environment steps, of each of the task's costs."""
    budgets: tuple[str, ...] = ()
    """Different budgets for several costs: `hazards=25 vases=50`, of info's cost_hazards and
    cost_vases, or numbers in the order of the task's costs. In place of episode_budget."""
    budget_share: float = 0.4
    """Share of the budget that the first policy is optimised for; the rest is margin."""
    margin_alpha: float = 0.02
    """Share of misses in the long run: policies that cost more than prediction and margin allow."""
    margin_step: float = 0.3
    """A miss divides the budget share by almost e^step, and hits raise it again; 0: it is fixed."""
    confidence_level: float = 0.0
    """Probability with which slack and slope of a step are bounds, given the noise over start
    states; from 0.6, or 0 to take the estimates as they are."""
    guard_share: float = 0.6
    """Share of its budget an episode may spend before the fallback acts; 0: no guard."""
    prefill_scales: tuple[float, ...] = (0.25, 0.5, 1.0, 1.0, 1.0)
    """Exploration scales of the first prefill episodes; it stops growing at the first cost. The
    prefill has as many steps as so many whole episodes."""
    eta: float = 0.1
    """Initial weight of the log barrier."""
    eta_decay: float = 0.9995
    """Factor on eta per feasible step."""
    eta_min: float = 0.01
    """Lower limit of eta."""
    constraint_smoothness: float = 300.0
    """Smoothness of the cost return (in budgets) in the step-size rule."""


@dataclass(frozen=True, kw_only=True, init=False)
class Config:
    """Every setting of a run, in groups.

    Give settings by name, also those of the groups. The others come from the preset, and with
    ``smoke`` from its tiny sizes. Recipes with more settings derive from this class.

    Raises:
        ValueError: a setting does not exist, or its value is not allowed.

    >>> config = Config(smoke=True, members=3)
    >>> config.posterior.members, config.model.deter_size, config.safety.episode_budget
    (3, 16, 25.0)
    """

    preset: Literal["cpu", "pixels", "paper"] = "cpu"
    """Source of the defaults: `cpu` learns in minutes, `pixels` from images within an hour on two
    cores, `paper` has the published sizes."""
    smoke: bool = False
    """Use tiny sizes, to check in a minute that everything works."""
    task: str = "SafetyHalfCheetahVelocity-v1"
    """Safety-Gymnasium task, or any id that Gymnasium has registered ("module:id" imports the
    module first)."""
    cost: str | None = None
    """Key of `info` that holds the cost, such as cost_hazards; by default Safety-Gymnasium's total,
    and `cost` of other tasks."""
    observation: Literal["vector", "image"] = "vector"
    """The task's features, or 64x64 images from the robot's camera (on velocity tasks from the
    camera that follows the body)."""
    image_quality: Literal["exact", "fast"] = "exact"
    """The simulator's picture, or a coarser one drawn in less time; see make_environment."""
    seed: int = 0
    """Seed of all random numbers."""
    out: Path | None = None
    """Run folder; runs/<recipe>/<task>/seed<k>-<time> by default."""
    resume: Path | None = None
    """Resume the run in this folder from its last checkpoint."""
    extend: Path | None = None
    """Continue the run in this folder up to a larger --steps, beyond its planned end."""
    start_from: Path | None = None
    """Start this new run from the last checkpoint of the run in that folder."""
    start_with: tuple[Literal["model", "policy", "replay"], ...] = ("model", "policy")
    """What it takes from there: weights of the world model and of the policy, which needs the
    model, and the replay. Optimisers, critics and margin start anew."""
    dataset: Path | None = None
    """Folder of recorded episodes that the replay starts with; they count as no environment steps.
    See blocks.save_episode."""
    steps: int = 100_000
    """Environment steps, prefill included."""
    action_repeat: int = 2
    """Environment steps for each action."""
    evaluation_episodes: int = 10
    """Episodes of the final evaluation: mean action, no guard."""
    snapshots: Literal["small", "always", "never"] = "small"
    """Keep every iterate's policy for an audit: always, never, or if one takes less than 1 MiB."""
    profile: bool = False
    """Print how the time of one iterate divides among its parts, and write a trace."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Device of the networks; environments and replay stay on the CPU."""
    compile: bool = False
    """Compile the repeated parts of an update, for a GPU; needs a C++ compiler and minutes."""
    threads: int = 2
    """Threads for independent parts of an update; values above 2 have no effect. Results are
    bit-identical; with images operations use threads too, and results differ by rounding."""
    model: ModelConfig = field(default_factory=ModelConfig)
    posterior: PosteriorConfig = field(default_factory=PosteriorConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    safety: SafetyConfig = field(default_factory=SafetyConfig)

    def __init__(self, **settings: Any) -> None:
        kinds = get_type_hints(type(self))
        for name, value in _resolve(type(self), settings).items():
            # JSON and some users write 1e6 for a whole number.
            whole = kinds[name] is int and isinstance(value, float) and value.is_integer()
            object.__setattr__(self, name, int(value) if whole else value)
        _check(self)

    def replace(self, **settings: Any) -> Self:
        """Copy the configuration with other values for the given settings."""
        return dataclasses.replace(self, **settings)

    def to_json(self) -> dict[str, Any]:
        """Return every setting by name, as plain values."""
        values = dataclasses.asdict(self)
        for name in _groups(type(self)):
            values |= values.pop(name)
        if self.start_from is None:
            del values["start_from"], values["start_with"]
        return {k: str(v) if isinstance(v, Path) else v for k, v in values.items()}

    @classmethod
    def of_run(cls, run: RunFolder) -> Self:
        """Read the configuration of a run, without its ``out``, ``resume`` and ``extend``.

        Raises:
            RunError: another version of the code, with other settings, made the run.
        """
        stored = cls.stored_settings(run.read_config())
        unknown = stored.keys() - _names(cls).union(*_groups(cls).values())
        if unknown:
            raise RunError(
                f"{run.path} was made by another version of the code, with settings that this one "
                f"does not have ({', '.join(sorted(unknown))}): start a new run, or check that "
                "version out"
            )
        return cls(**stored)

    @staticmethod
    def stored_settings(stored: Mapping[str, Any]) -> dict[str, Any]:
        """Take the settings from the content of a config.json, and none that is about one run."""
        apart = {*DESCRIPTION, *HISTORY, "out", "resume", "extend"}
        settings = {k: v for k, v in stored.items() if k not in apart}
        for name in ("start_from", "dataset"):
            if settings.get(name):
                settings[name] = Path(settings[name])
        return {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}


SMOKE: dict[str, Any] = {
    "steps": 4000,
    "prefill_scales": (0.5, 1.0),
    "prefill_updates": 5,
    "updates_per_episode": 3,
    "evaluation_episodes": 1,
    "deter_size": 16,
    "stoch_size": 4,
    "hidden_size": 16,
    "image_depth": 2,
    "members": 2,
    "batch_size": 4,
    "seq_len": 12,
    "horizon": 5,
    "check_horizon": 6,
    "imagination_batch_size": 8,
}
PAPER: dict[str, Any] = {
    "steps": 1_000_000,
    "guard_share": 0.0,
    "budget_share": 1.0,
    "margin_step": 0.0,
    "cost_prior": 1e-6,
    "deter_size": 200,
    "stoch_size": 60,
    "hidden_size": 200,
    "batch_size": 16,
    "seq_len": 50,
    "recent_fraction": 0.0,
    "costly_fraction": 0.0,
    "model_learning_rate": 3e-4,
    "noise_learning_rate": 3e-4,
    "actor_learning_rate": 8e-5,
    "actor_learning_rate_end": 8e-5,
    "critic_learning_rate": 8e-5,
    "updates_per_episode": 100,
    "horizon": 15,
    "check_horizon": 0,
    "eta_decay": 1 / (1 + 8e-6),
    "eta_min": 0.0,
    "constraint_smoothness": 1.2e4,
}
PIXELS: dict[str, Any] = {
    "steps": 50_000,
    "observation": "image",
    "image_quality": "fast",
    "image_depth": 8,
    "action_repeat": 4,  # at 2, successive images hardly show how fast the body is
    "reward_unit": 0.3,
    "seq_len": 16,
    "model_learning_rate": 1e-3,
    "noise_learning_rate": 3e-3,
    "entropy": 1e-3,
    "prefill_updates": 500,
    "updates_per_episode": 100,
}
PRESETS: dict[str, dict[str, Any]] = {"cpu": {}, "pixels": PIXELS, "paper": PAPER}


def _names(kind: Any) -> set[str]:
    return {field.name for field in dataclasses.fields(kind)}


def _groups(kind: type[Config]) -> dict[str, set[str]]:
    """Return the names of the settings of each group."""
    kinds = {name: k for name, k in get_type_hints(kind).items() if dataclasses.is_dataclass(k)}
    return {name: _names(group) for name, group in kinds.items()}


def _resolve(kind: type[Config], given: dict[str, Any]) -> dict[str, Any]:
    """Take each setting from ``given``, else from the preset, else from the field's default."""
    groups = _groups(kind)
    names = _names(kind).union(*groups.values())
    for name in given.keys() - names:
        close = difflib.get_close_matches(name, names, n=1)
        meant = f"; perhaps you mean {close[0]}" if close else ""
        raise ValueError(f"{name}: there is no such setting{meant}.")
    preset = given.get("preset", "cpu")
    if preset not in PRESETS:
        raise ValueError(f"preset: got {preset}; allowed: {', '.join(PRESETS)}.")
    chosen = PRESETS[preset] | (SMOKE if given.get("smoke") else {})
    values: dict[str, Any] = {}
    fields: tuple[Any, ...] = dataclasses.fields(kind)
    for entry in fields:
        name = entry.name
        if name not in groups:
            values[name] = given.get(name, chosen.get(name, entry.default))
        else:
            settings = given if name in given else chosen | given
            group = given.get(name) or entry.default_factory()
            exchanged = {k: settings[k] for k in groups[name] & settings.keys()}
            values[name] = dataclasses.replace(group, **exchanged)
    return values


def _check(config: Config) -> None:
    """Raise a ValueError if a value is out of its range."""
    values: dict[str, Any] = config.to_json() | {"start_with": config.start_with}
    counts = ("threads", "steps", "action_repeat", "evaluation_episodes", "members", "horizon")
    counts += ("start_episodes", "batch_size", "seq_len", "image_depth")
    positive = ("episode_budget", "reward_unit", "image_std", "budget_share")
    seq_len, share = values["seq_len"], 1 - INITIAL_SHARE
    grouped = f"a multiple of {ERROR_GROUPS} with a confidence_level"
    trained = f"below seq_len={seq_len}, the length on which the dynamics are trained"
    rules: tuple[tuple[tuple[str, ...], Callable[[Any], bool], str], ...] = (
        (("steps",), lambda value: isinstance(value, int), "whole numbers"),
        (counts, lambda value: value >= 1, "at least 1"),
        (positive, lambda value: 0 < value < math.inf, "above 0"),
        (("budgets",), _are_budgets, "numbers above 0, or name=number with different names"),
        (("margin_alpha",), lambda value: 0 < value < 1, "between 0 and 1"),
        (("check_horizon",), lambda value: value == 0 or value >= 2, "0 (no check), or at least 2"),
        (("margin_step",), lambda value: 0 <= value < math.inf, "from 0 (a fixed margin)"),
        (("confidence_level",), lambda value: value == 0 or 0.6 <= value < 1, "0, or in [0.6, 1)"),
        (("imagination_batch_size",), partial(_divides, values["confidence_level"]), grouped),
        (("guard_share",), lambda value: 0 <= value <= 1, "from 0 (no guard) to 1"),
        (("prefill_scales",), lambda value: len(value) >= 1, "at least one scale"),
        (("snapshots",), ("small", "always", "never").__contains__, "small, always or never"),
        (("start_with",), _can_start, "model, policy with model, replay"),
        (("extend",), lambda value: not (value and config.resume), "without resume"),
        (("horizon",), lambda value: value < seq_len, trained),
        (("start_replay_share",), lambda value: 0 <= value <= share, f"from 0 to {share}"),
        (("discount", "cost_discount"), lambda value: 0 <= value < 1, "from 0 to below 1"),
    )
    for names, holds, allowed in rules:
        for name in names:
            if not holds(values[name]):
                raise ValueError(f"{name}: got {values[name]}; allowed: {allowed}.")


def _are_budgets(budgets: tuple[str, ...]) -> bool:
    """Return whether all are numbers above 0, or all are ``name=number`` with different names."""
    try:
        pairs = [budget.rpartition("=") for budget in budgets]
        numbers = [float(number) for _, _, number in pairs]
    except ValueError:
        return False
    names = [name for name, _, _ in pairs]
    distinct = not any(names) or (all(names) and len(set(names)) == len(names))
    return distinct and all(0 < number < float("inf") for number in numbers)


def _divides(level: float, size: int) -> bool:
    return not level or size % ERROR_GROUPS == 0


def _can_start(parts: tuple[str, ...]) -> bool:
    """Check the parts to start with: a policy needs the model whose latent states it knows."""
    known = set(parts) <= {"model", "policy", "replay"}
    return bool(parts) and known and ("policy" not in parts or "model" in parts)
