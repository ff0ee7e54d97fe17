"""The robot's camera against Safety-Gymnasium's own pictures, byte for byte, on the same OpenGL."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opengl import skip_without_opengl

from blocks.environments.compatibility import import_safety_gymnasium
from blocks.environments.offscreen_viewer import free_viewers
from blocks.environments.robot_camera import RobotCamera
from blocks.environments.safety_gymnasium import SafetyEnvironment, make_environment

REPEAT = 5


@pytest.fixture(scope="module")
def opengl() -> None:
    skip_without_opengl()


class StockPictures:
    """Safety-Gymnasium's vision environment, at the size and in the episodes of ours."""

    def __init__(self, task: str, seed: int) -> None:
        safety_gymnasium = import_safety_gymnasium()
        from gymnasium.envs.registration import registry

        vision = task.replace("-v0", "Vision-v0")
        config = registry[vision].kwargs["config"] | {"vision_env_conf.vision_size": (64, 64)}
        self.environment = safety_gymnasium.make(vision, config=config)
        self.seed = seed

    @property
    def viewers(self) -> dict[str, Any]:
        return self.environment.unwrapped.task._viewers

    def reset(self, episode: int) -> np.ndarray:
        seed = np.random.SeedSequence((self.seed, episode)).generate_state(1)[0]
        self.make_current()
        return self.environment.reset(seed=int(seed))[0]["vision"]

    def step(self, action: np.ndarray) -> np.ndarray:
        self.make_current()
        for _ in range(REPEAT):
            observation = self.environment.step(action)[0]
        return observation["vision"]

    def make_current(self) -> None:
        """It draws into whatever context is current, which ours may have been."""
        for viewer in self.viewers.values():
            viewer.make_context_current()

    def close(self) -> None:
        free_viewers(self.viewers)


@pytest.mark.usefixtures("opengl")
@pytest.mark.filterwarnings("ignore:.*unconventional shape:UserWarning")
@pytest.mark.parametrize(
    ("task", "seed"),
    [
        ("SafetyPointGoal1-v0", 1),
        ("SafetyCarGoal2-v0", 2),
        ("SafetyPointButton1-v0", 3),
        ("SafetyCarPush1-v0", 4),
        ("SafetyPointCircle1-v0", 5),
        ("SafetyDoggoGoal1-v0", 1),
    ],
)
def test_every_byte_is_safety_gymnasium_s(task: str, seed: int) -> None:
    stock = StockPictures(task, seed)
    ours = make_environment(task, observation="image", seed=seed, action_repeat=REPEAT)
    lights = 0
    for episode in range(2):  # the second one has no separate sky
        rng = np.random.default_rng(episode)
        pictures = [ours.reset()[0]]
        np.testing.assert_array_equal(pictures[0], stock.reset(episode))
        for _ in range(25):
            action = rng.uniform(-1, 1, ours.action_space.shape).astype(np.float32)
            pictures.append(ours.step(action)[0])
            lights += ours._camera._lights_may_show()
            np.testing.assert_array_equal(pictures[-1], stock.step(action))
        assert pictures[-1].std() > 5
        assert not np.array_equal(pictures[0], pictures[-1])
    assert (lights > 0) == ("Doggo" in task)  # both ways of drawing have been used
    ours.close()
    stock.close()


@pytest.mark.usefixtures("opengl")
def test_environments_beside_and_after_each_other_do_not_disturb_each_other() -> None:
    def pictures(environment: SafetyEnvironment) -> Iterator[np.ndarray]:
        yield environment.reset()[0]
        while True:
            action = np.full(environment.action_space.shape, 0.7, np.float32)
            yield environment.step(action)[0]

    tasks = ("SafetyPointGoal1-v0", "SafetyCarButton1-v0")
    alone = []
    for task in tasks:
        environment = make_environment(task, observation="image", action_repeat=2)
        alone.append([picture for picture, _ in zip(pictures(environment), range(4), strict=False)])
        environment.close()
    both = [make_environment(task, observation="image", action_repeat=2) for task in tasks]
    for first, second, one, other in zip(*map(pictures, both), *alone, strict=False):
        np.testing.assert_array_equal(first, one)
        np.testing.assert_array_equal(second, other)
    for environment in both:
        environment.close()


@pytest.mark.usefixtures("opengl")
def test_fast_pictures_are_close_and_episodes_the_same() -> None:
    exact, fast = (
        make_environment("SafetyPointGoal1-v0", seed=4, observation="image", image_quality=quality)
        for quality in ("exact", "fast")
    )
    pairs = [(exact.reset()[0], fast.reset()[0])]
    for _ in range(20):
        action = np.array((0.9, 0.3), np.float32)
        one, other = exact.step(action), fast.step(action)
        assert one[1] == other[1]
        assert one[4]["cost"] == other[4]["cost"]
        pairs.append((one[0], other[0]))
    for one, other in pairs:
        assert np.abs(one.astype(float) - other).mean() < 6  # of 255
    exact.close()
    fast.close()


coordinates = st.floats(-5, 5)


@given(
    st.tuples(coordinates, coordinates, st.floats(0.05, 2)),
    st.tuples(*[st.floats(-1, 1)] * 4).filter(lambda q: np.linalg.norm(q) > 0.1),
    st.floats(20, 120),
    st.tuples(st.floats(-1, 1), st.floats(-1, 1), st.floats(0, 5)),
    st.tuples(*[st.floats(-0.57, 0.57)] * 3),
    st.floats(0, 1),
    st.booleans(),
)
def test_nothing_in_sight_is_left_out(
    position: tuple[float, ...],
    quaternion: tuple[float, ...],
    fovy: float,
    seen: tuple[float, ...],
    towards: tuple[float, ...],
    radius: float,
    mirrored: bool,
) -> None:
    """A ball of which a point is in the picture, or in the floor's mirror, is drawn."""
    w, x, y, z = np.array(quaternion) / np.linalg.norm(quaternion)
    rotation = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
    width = np.tan(np.radians(fovy) / 2)
    depth = seen[2]
    point = position + rotation @ np.array(
        [seen[0] * width * depth, seen[1] * width * depth, -depth]
    )
    if mirrored:
        point[2] *= -1
    task = SimpleNamespace(
        model=SimpleNamespace(cam_fovy=np.array([fovy])),
        data=SimpleNamespace(cam_xpos=np.array([position]), cam_xmat=rotation.reshape(1, 9)),
    )
    camera = RobotCamera(task, 64, "exact")
    camera._viewer = SimpleNamespace(cam=SimpleNamespace(fixedcamid=0))
    centre = point + radius * np.array(towards)  # within the radius of the point
    assert not camera._out_of_sight(centre[None], np.array([radius])).any()


def test_what_is_behind_the_camera_is_out_of_sight() -> None:
    task = SimpleNamespace(
        model=SimpleNamespace(cam_fovy=np.array([90.0])),
        data=SimpleNamespace(
            cam_xpos=np.array([[0.0, 0.0, 1.0]]),
            # Looks along x: its right is -y, its up is z.
            cam_xmat=np.array([[0.0, 0, -1, -1, 0, 0, 0, 1, 0]]),
        ),
    )
    camera = RobotCamera(task, 64, "exact")
    camera._viewer = SimpleNamespace(cam=SimpleNamespace(fixedcamid=0))
    centres = np.array([[2.0, 0, 1], [-2, 0, 1], [2, 3, 1], [2, 0, 4], [2, 0, -4], [2, 0, -1.5]])
    out = camera._out_of_sight(centres, np.full(len(centres), 0.1))
    # Mirrored, the last but one is where the fourth is, and the last in the middle of the picture.
    assert out.tolist() == [False, True, True, True, True, False]
