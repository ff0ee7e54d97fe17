"""That nothing else changes is tested where whole episodes are compared: test_environments.py."""

from contextlib import nullcontext
from types import MethodType

import mujoco
import numpy as np
import pytest

from blocks import make_environment
from blocks.environments.compatibility import import_safety_gymnasium
from blocks.environments.speed import plain_sky, sample_layout


def test_the_sky_is_plain_within_the_context_only() -> None:
    task = import_safety_gymnasium().make("SafetyPointGoal1-v0").unwrapped
    models = []
    for sky in (plain_sky, nullcontext):
        with sky():
            task.reset(seed=0)
        models.append(task.task.model)
    assert [int(model.tex_height[0]) for model in models] == [384, 19554]
    plain, stock = (arrays(model) for model in models)
    differing = {name for name in stock if not np.array_equal(plain[name], stock[name])}
    assert "tex_height" in differing
    assert all(name.startswith("tex_") for name in differing)


def arrays(model: mujoco.MjModel) -> dict[str, np.ndarray]:
    """All there is to a compiled model, by name."""
    values = {name: getattr(model, name) for name in dir(model) if not name.startswith("_")}
    return {name: value for name, value in values.items() if isinstance(value, np.ndarray)}


@pytest.mark.parametrize("seed", range(3))
def test_layouts_come_from_the_same_draws(seed: int) -> None:
    task = import_safety_gymnasium().make("SafetyCarButton1-v0").unwrapped.task
    task._build_placements_dict()
    generator, conf = task.random_generator, task.placements_conf
    generator.set_placements_info(conf.placements, conf.extents, conf.margin)
    results = []
    for sample in (generator.sample_layout, MethodType(sample_layout, generator)):
        generator.sample_layout = sample
        generator.set_random_seed(seed)
        results.append((generator.build_layout(), generator.uniform()))
    (stock, next_draw), (ours, our_next_draw) = results
    assert next_draw == our_next_draw  # after dozens of layouts that failed
    assert ours.keys() == stock.keys()
    assert all(np.array_equal(ours[name], stock[name]) for name in stock)


def test_safety_gymnasium_s_own_environments_stay_as_they_were() -> None:
    ours = make_environment("SafetyCarButton1-v0")._inner.task
    stock = import_safety_gymnasium().make("SafetyCarButton1-v0").unwrapped.task
    for ours_part, stock_part, method in (
        (ours.random_generator, stock.random_generator, "sample_layout"),
        (ours.gremlins, stock.gremlins, "move"),
    ):
        assert method in vars(ours_part)
        assert method not in vars(stock_part)
