"""Save a policy as safetensors and JSON, with a model card; load it without executing anything.

policy.json         format, versions, parts with their sizes, action bounds, observation, origin
policy.safetensors  the weights
README.md           the model card
"""

import hashlib
import json
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load, save

from blocks.policies.latent_policy import LatentPolicy
from blocks.policies.model_card import model_card
from blocks.policies.parts import describe, rebuild

FORMAT = 1
PARTS = ("normalizer", "encoder", "rssm", "actor")


def save_policy(
    path: str | Path,
    policy: LatentPolicy,
    *,
    task: str = "",
    seed: int | None = None,
    settings: Mapping[str, Any] | None = None,
    results: Mapping[str, float] | None = None,
) -> Path:
    """Write a policy to a folder: ``policy.json``, ``policy.safetensors``, ``README.md``.

    It replaces a policy that is there. A write that is cut short leaves one that ``load_policy``
    calls damaged, or the old one.

    Args:
        path: the folder; created if it is missing.
        policy: made of blocks of this package.
        task: where it was trained.
        seed: of the training.
        settings: other facts that its user needs, such as the action repeat; values of JSON.
        results: figures for the model card, such as return and cost of an episode.

    Returns:
        The folder.

    Raises:
        ValueError: a part is not a block of this package, or a setting is not a value of JSON.

    >>> save_policy("my_policy", policy, task="SafetyPointGoal1-v0")  # doctest: +SKIP
    """
    tensors = {k: v.detach().cpu().clone().contiguous() for k, v in policy.state_dict().items()}
    weights = save(tensors)
    content = {
        "format": FORMAT,
        "blocks_version": _version(),
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "parts": {name: describe(name, getattr(policy, name)) for name in PARTS},
        "action": {"low": policy.low.tolist(), "high": policy.high.tolist()},
        "observation": {
            "shape": list(policy.observation_shape),
            "dtype": policy.observation_dtype.name,
        },
        "task": task,
        "seed": seed,
        "settings": dict(settings or {}),
        "results": dict(results or {}),
    }
    try:
        description = json.dumps(content, indent=2, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"settings, results: got a value that is not JSON ({error}); allowed finite numbers, "
            "strings, booleans, None, lists and dictionaries; convert it"
        ) from error
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    _replace(folder / "policy.safetensors", weights)
    _replace(folder / "policy.json", description.encode())
    _replace(folder / "README.md", model_card(content).encode())
    return folder


def load_policy(path: str | Path, device: str | torch.device = "cpu") -> LatentPolicy:
    """Load a policy that ``save_policy`` wrote.

    Reads the two files in the folder and nothing else; executes nothing from them.

    Args:
        path: the folder.
        device: where it computes.

    Returns:
        The policy, at the start of an episode; ``about`` holds task, seed, settings and results.

    Raises:
        ValueError: the folder holds no policy, a damaged one or one of another format; or the
            device is not there.

    >>> policy = load_policy("my_policy")  # doctest: +SKIP
    >>> action = policy.act(observation)  # doctest: +SKIP
    """
    folder = Path(path)
    content = _read_description(folder)
    weights = _read(folder / "policy.safetensors")
    if hashlib.sha256(weights).hexdigest() != content.get("weights_sha256"):
        raise _damaged(folder / "policy.safetensors", "its checksum is not that in policy.json")
    target = _checked_device(device)
    try:
        with cast(Any, torch.random).fork_rng(
            devices=[]
        ):  # initial weights are drawn, then replaced
            parts = {name: rebuild(name, content["parts"][name]) for name in PARTS}
        policy = LatentPolicy(
            **parts,
            low=content["action"]["low"],
            high=content["action"]["high"],
            observation_shape=tuple(content["observation"]["shape"]),
            observation_dtype=content["observation"]["dtype"],
        )
        policy.load_state_dict(load(weights))
        policy.about = {name: content[name] for name in ("task", "seed", "settings", "results")}
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise _damaged(folder / "policy.json", f"{type(error).__name__}: {error}") from error
    policy.to(target).requires_grad_(False)
    policy.reset()  # on the device
    return policy


def _read_description(folder: Path) -> dict[str, Any]:
    file = folder / "policy.json"
    if not file.is_file():
        raise ValueError(
            f"path: got {folder}, which holds no policy.json; allowed a folder that save_policy "
            "wrote; check the path"
        )
    try:
        content = json.loads(_read(file))
        if not isinstance(content, dict):
            raise ValueError("it is not an object")
    except ValueError as error:  # also for bytes that are not text
        raise _damaged(file, str(error)) from error
    given = cast(dict[str, Any], content)
    if given.get("format") != FORMAT:
        raise ValueError(
            f"format: got {given.get('format')} in {file}, saved by cerl-blocks "
            f"{given.get('blocks_version')}; allowed {FORMAT}, which cerl-blocks {_version()} "
            "reads; install that version, or save the policy again"
        )
    return given


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise _damaged(file, str(error.strerror)) from error


def _damaged(file: Path, why: str) -> ValueError:
    reason = " ".join(why.split())
    return ValueError(
        f"path: got {file}, which is damaged ({reason}); allowed what save_policy wrote; save the "
        "policy again"
    )


def _checked_device(device: str | torch.device) -> torch.device:
    target = torch.device(device)
    if target.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device: got {device}, but torch finds no CUDA device; allowed cpu")
    return target


def _replace(file: Path, content: bytes) -> None:
    """Write a file so that it is whole, either old or new."""
    temporary = file.with_name(f".writing-{file.name}")
    temporary.write_bytes(content)
    temporary.replace(file)


def _version() -> str:
    try:
        return metadata.version("cerl-blocks")
    except metadata.PackageNotFoundError:  # used from a checkout
        return "unknown"
