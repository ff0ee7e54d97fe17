"""A policy saved and loaded: the same actions, without noise, recipes or anything executed."""

import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from torch import nn

import blocks
from blocks import (
    RSSM,
    Actor,
    CategoricalLatent,
    GaussianLatent,
    ImageEncoder,
    Latent,
    LatentPolicy,
    Normalizer,
    VectorEncoder,
    load_policy,
    save_policy,
)

LOW, HIGH = np.array([-1.0, 0.0], np.float32), np.array([1.0, 6.0], np.float32)


def make_policy(kind: str = "vector", latent: Latent | None = None) -> LatentPolicy:
    """A tiny policy whose actions depend on what it has seen."""
    torch.manual_seed(0)
    encoder = VectorEncoder(3, embed_size=8, hidden_size=7) if kind == "vector" else None
    encoder = encoder or ImageEncoder(depth=1)
    normalizer = Normalizer(3, min_std=0.2) if kind == "vector" else nn.Identity()
    if isinstance(normalizer, Normalizer):
        normalizer.fit(torch.randn(20, 3) * 3 + 1)
    rssm = RSSM(
        embed_size=encoder.embed_size,
        action_size=2,
        deter_size=5,
        stoch_size=4,
        hidden_size=6,
        latent=latent or GaussianLatent(min_std=0.3),
    )
    actor = Actor(9, 2, hidden_size=5, max_std=2.0)
    nn.init.normal_(actor.output.weight)
    return LatentPolicy(
        normalizer,
        encoder,
        rssm,
        actor,
        low=LOW,
        high=HIGH,
        observation_shape=(3,) if kind == "vector" else (64, 64, 3),
        observation_dtype="float32" if kind == "vector" else "uint8",
    )


def seen(kind: str = "vector", steps: int = 6) -> np.ndarray:
    random = np.random.default_rng(1)
    if kind == "vector":
        return random.normal(size=(steps, 3)).astype(np.float32)
    return random.integers(0, 256, (steps, 64, 64, 3), np.uint8)


def act(policy: LatentPolicy, observations: np.ndarray) -> np.ndarray:
    policy.reset()
    return np.stack([policy.act(observation) for observation in observations])


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return save_policy(tmp_path / "policy", make_policy(), task="Task-v0", seed=3)


# ---- acting ----------------------------------------------------------------------------------


@pytest.mark.parametrize("latent", [GaussianLatent(), CategoricalLatent(classes=2)])
def test_it_takes_the_modes_of_the_blocks(latent: Latent) -> None:
    policy = make_policy(latent=latent)
    state, action = policy.rssm.initial(1), torch.zeros(1, 2)
    for observation, acted in zip(seen(), act(policy, seen()), strict=True):
        embed = policy.encoder(policy.normalizer(torch.tensor(observation)[None]))
        state = policy.rssm.step(state, action, embed, sample=False)
        action = policy.actor.mode(state.feat)
        bounded = LOW + (action[0].detach().numpy() + 1) / 2 * (HIGH - LOW)
        np.testing.assert_allclose(acted, bounded, rtol=1e-5)


def test_it_draws_no_noise_and_forgets_at_reset() -> None:
    policy, before = make_policy(), torch.get_rng_state()
    first, second = act(policy, seen()), act(policy, seen())
    assert np.array_equal(first, second)
    assert torch.equal(torch.get_rng_state(), before)
    policy.reset()
    policy.act(seen()[1])
    assert not np.array_equal(policy.act(seen()[0]), first[0])  # without a reset it remembers


def test_a_sample_of_the_latent_would_act_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control of the test above: with noise in the filter, actions differ."""
    noisy = lambda self: self.rsample(torch.randn_like(self.mean))  # noqa: E731
    monkeypatch.setattr(blocks.Gaussian, "mode", noisy)
    policy = make_policy()
    assert not np.array_equal(act(policy, seen()), act(policy, seen()))


@given(npst.arrays(np.float32, (4, 3), elements=st.floats(-1e6, 1e6, width=32)))
def test_actions_are_within_the_bounds(observations: np.ndarray) -> None:
    actions = act(make_policy(), observations)
    assert actions.dtype == np.float32
    assert (actions >= LOW).all()
    assert (actions <= HIGH).all()


def wrong(observation: Any, kind: str = "vector") -> str:
    with pytest.raises(ValueError, match=r"observation: got .*; allowed") as error:
        make_policy(kind).act(observation)
    return str(error.value)


def test_a_wrong_observation_is_one_line() -> None:
    assert "shape (4,)" in wrong(np.zeros(4, np.float32))
    assert "NaN" in wrong(np.array([0.0, np.nan, 0.0]))
    assert "float64" in wrong(np.zeros((64, 64, 3)), "image")  # pixels from 0 to 1, perhaps


def test_bounds_must_be_those_of_the_actor() -> None:
    policy = make_policy()
    parts = (policy.normalizer, policy.encoder, policy.rssm, policy.actor)
    for low, high in (([0.0], [1.0]), ([0.0, 0.0], [1.0, np.inf]), ([0.0, 1.0], [1.0, 1.0])):
        with pytest.raises(ValueError, match=r"low, high: got .* low < high"):
            LatentPolicy(*parts, low=low, high=high, observation_shape=(3,))


# ---- saving and loading ----------------------------------------------------------------------

KINDS = [
    ("vector", GaussianLatent(min_std=0.3)),
    ("vector", CategoricalLatent(classes=2, uniform=0.05)),
    ("image", GaussianLatent()),
]


@pytest.mark.parametrize(("kind", "latent"), KINDS)
def test_a_loaded_policy_acts_as_the_saved_one(kind: str, latent: Latent, tmp_path: Path) -> None:
    policy = make_policy(kind, latent)
    folder = save_policy(
        tmp_path / "a", policy, task="Task-v0", seed=3, settings={"action_repeat": 4}
    )
    folder.rename(tmp_path / "elsewhere")
    before = torch.get_rng_state()
    loaded = load_policy(tmp_path / "elsewhere")
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(act(loaded, seen(kind)), act(policy, seen(kind)))
    assert loaded.rssm.latent == latent
    assert loaded.about["task"] == "Task-v0"
    assert loaded.about["settings"] == {"action_repeat": 4}
    again = load_policy(save_policy(tmp_path / "b", loaded))
    assert np.array_equal(act(again, seen(kind)), act(policy, seen(kind)))


ALONE = """
import sys
sys.modules["recipes"] = sys.modules["gymnasium"] = None
sys.path.insert(0, sys.argv[1])
import blocks, numpy as np
assert blocks.__file__.startswith(sys.argv[1]), blocks.__file__
from blocks import load_policy
policy = load_policy(sys.argv[2])
np.save(sys.argv[4], np.stack([policy.act(seen) for seen in np.load(sys.argv[3])]))
"""


@pytest.mark.parametrize("kind", ["vector", "image"])
def test_it_acts_in_a_process_that_has_only_blocks(kind: str, tmp_path: Path) -> None:
    source = Path(blocks.__file__).parent
    shutil.copytree(source, tmp_path / "path" / "blocks", ignore=shutil.ignore_patterns("__py*"))
    policy = make_policy(kind)
    save_policy(tmp_path / "policy", policy)
    np.save(tmp_path / "seen.npy", seen(kind))
    names = [str(tmp_path / name) for name in ("path", "policy", "seen.npy", "acted.npy")]
    done = subprocess.run(
        [sys.executable, "-I", "-c", ALONE, *names], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    acted = np.load(tmp_path / "acted.npy")
    # Another number of threads may add up in another order.
    np.testing.assert_allclose(acted, act(policy, seen(kind)), rtol=1e-5, atol=1e-6)


def test_nothing_is_unpickled(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("unpickled")

    for module, name in ((pickle, "load"), (pickle, "loads"), (torch, "load")):
        monkeypatch.setattr(module, name, refuse)
    load_policy(saved)


def test_the_card_says_what_it_is(tmp_path: Path) -> None:
    results = {"return of an episode": 2488.25, "cost of an episode": 3.0}
    folder = save_policy(tmp_path, make_policy(), task="Task-v0", seed=7, results=results)
    card = (folder / "README.md").read_text()
    for expected in ("Task-v0", "| seed | 7 |", "2488.25", "load_policy", "deterministic"):
        assert expected in card


class MyEncoder(VectorEncoder):
    """A user's own."""


def test_a_part_that_is_not_ours_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    policy = make_policy()
    policy.encoder = MyEncoder(3, embed_size=8)
    with pytest.raises(ValueError, match=r"encoder: got a MyEncoder, .* allowed VectorEncoder"):
        save_policy(tmp_path / "policy", policy)
    with pytest.raises(ValueError, match="settings, results: got a value that is not JSON"):
        save_policy(tmp_path / "policy", make_policy(), settings={"value": float("nan")})
    assert not (tmp_path / "policy").exists()


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads((folder / "policy.json").read_text())
    change(content)
    (folder / "policy.json").write_text(json.dumps(content))


def refused(folder: Path, device: str = "cpu") -> str:
    with pytest.raises(ValueError, match=r"got .*; allowed") as error:
        load_policy(folder, device)
    (line,) = str(error.value).splitlines()
    return line


def test_another_version_is_named(saved: Path) -> None:
    rewrite(saved, lambda content: content.update(format=2, blocks_version="9.0"))
    assert "format: got 2" in refused(saved)
    assert "9.0" in refused(saved)


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c["parts"]["encoder"].update({"class": "os.system"}),
        lambda c: c["parts"]["encoder"]["arguments"].update(hidden_size=8),
        lambda c: c["parts"]["actor"]["arguments"].update(colour="red"),
        lambda c: c["parts"]["rssm"]["arguments"]["latent"]["arguments"].update(min_std=-1),
        lambda c: c["parts"].pop("rssm"),
        lambda c: c["parts"].update(rssm=3),
        lambda c: c["action"].update(low=[1.0, 1.0], high=[0.0, 2.0]),
        lambda c: c["observation"].update(dtype="nonsense"),
        lambda c: c.pop("task"),
    ],
)
def test_a_changed_description_is_damaged(saved: Path, change: Any) -> None:
    rewrite(saved, change)
    assert "policy.json, which is damaged" in refused(saved)


def test_damaged_files_are_named(saved: Path, tmp_path: Path) -> None:
    weights = saved / "policy.safetensors"
    sound = weights.read_bytes()
    weights.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))  # one bit of one weight
    assert "policy.safetensors, which is damaged" in refused(saved)
    weights.unlink()
    assert "policy.safetensors, which is damaged" in refused(saved)
    for broken in (b"{", b"[]", b"\xff"):
        (saved / "policy.json").write_bytes(broken)
        assert "policy.json, which is damaged" in refused(saved)
    assert "holds no policy.json" in refused(tmp_path / "nowhere")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
def test_a_missing_device_is_named(saved: Path) -> None:
    assert "device: got cuda" in refused(saved, "cuda")
