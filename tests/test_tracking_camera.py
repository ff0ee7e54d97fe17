"""The velocity tasks' camera against Gymnasium's pictures, byte for byte, on the same OpenGL."""

import inspect
from types import SimpleNamespace

import mujoco
import numpy as np
import pytest
from opengl import skip_without_opengl

from blocks.environments.offscreen_viewer import free_viewers
from blocks.environments.safety_gymnasium import SafetyEnvironment, make_environment
from blocks.environments.tracking_camera import TrackingCamera

CHEETAH = "SafetyHalfCheetahVelocity-v1"


@pytest.fixture(scope="module")
def opengl() -> None:
    skip_without_opengl()


def some_actions(environment: SafetyEnvironment, count: int) -> np.ndarray:
    shape = (count, *environment.action_space.shape)
    return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


@pytest.mark.usefixtures("opengl")
@pytest.mark.parametrize("task", [CHEETAH, "SafetyAntVelocity-v1"])
def test_every_byte_is_gymnasium_s(task: str) -> None:
    from gymnasium.envs.mujoco.mujoco_rendering import MujocoRenderer

    ours = make_environment(task, seed=3, observation="image", action_repeat=2)
    vector = make_environment(task, seed=3, action_repeat=2)
    inner = vector._inner
    inner.model.vis.global_.offwidth = inner.model.vis.global_.offheight = 64
    camera = {"camera_name": "track"}
    if "camera_name" in inspect.signature(MujocoRenderer.render).parameters:
        renderer = MujocoRenderer(inner.model, inner.data)
    else:  # Gymnasium 1
        renderer = MujocoRenderer(inner.model, inner.data, None, 64, 64, **camera)
        camera = {}
    for _ in range(2):
        pictures = [ours.reset()[0]]
        vector.reset()
        for action in some_actions(ours, 8):
            renderer._get_viewer("rgb_array").make_context_current()
            stock = renderer.render("rgb_array", **camera)
            np.testing.assert_array_equal(pictures[-1], stock)
            picture, *outcome = ours.step(action)
            assert tuple(outcome) == vector.step(action)[1:]
            pictures.append(picture)
        assert pictures[-1].std() > 5
        assert not np.array_equal(pictures[0], pictures[-1])
    assert ours.observation_space.contains(pictures[-1])
    free_viewers(renderer._viewers)
    ours.close()


@pytest.mark.usefixtures("opengl")
def test_fast_pictures_are_close_and_episodes_the_same() -> None:
    exact, fast = (
        make_environment(CHEETAH, seed=4, observation="image", image_quality=quality)
        for quality in ("exact", "fast")
    )
    exact.reset()
    fast.reset()
    for action in some_actions(exact, 20):
        one, other = exact.step(action), fast.step(action)
        assert one[1:] == other[1:]
        assert 0 < np.abs(one[0].astype(float) - other[0]).mean() < 12  # of 255
    exact.close()
    fast.close()


def test_a_model_without_the_camera_is_refused() -> None:
    xml = '<mujoco><worldbody><camera name="above" pos="0 0 1"/></worldbody></mujoco>'
    model = mujoco.MjModel.from_xml_string(xml)
    with pytest.raises(ValueError, match=r"got 'image' for a .*\['above'\]; allowed 'vector'"):
        TrackingCamera(SimpleNamespace(model=model), 64, "exact")
