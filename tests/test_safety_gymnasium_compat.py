"""Each repair of Safety-Gymnasium by itself: what fails without it works with it, and no more."""

import dataclasses
import importlib
import sys
from types import SimpleNamespace
from typing import Any

import gymnasium
import mujoco
import numpy as np
import pytest

from blocks.environments import compatibility as compat
from blocks.environments import gymnasium_1
from blocks.environments.safety_gymnasium import make_environment

MODEL = mujoco.MjModel.from_xml_string(
    "<mujoco><worldbody><body><joint name='hinge' type='hinge'/><geom size='0.1'/></body>"
    "</worldbody></mujoco>"
)

OLD_GYMNASIUM = gymnasium.__version__.startswith("0.")
needs_gymnasium_1 = pytest.mark.skipif(OLD_GYMNASIUM, reason="needs Gymnasium 1: make check-tasks")
needs_present_xml = pytest.mark.skipif(
    OLD_GYMNASIUM and not mujoco.__version__.startswith("2."),
    reason="Gymnasium 0.28's XML of this body needs MuJoCo 2",
)


def pretend_gymnasium_is(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setattr(gymnasium_1, "metadata", SimpleNamespace(version=lambda name: version))


def define_dataclass_with_array_default() -> type:
    @dataclasses.dataclass(kw_only=True)
    class Geom:
        color: np.ndarray = np.array([1.0, 0.0])  # noqa: RUF009 - the very thing to repair
        size: float = 0.5

    return Geom


def test_array_defaults_are_copied_within_the_context_only() -> None:
    with pytest.raises(ValueError, match="mutable default"):
        define_dataclass_with_array_default()
    original = dataclasses.dataclass
    with compat.array_defaults_allowed():
        geom = define_dataclass_with_array_default()
    assert dataclasses.dataclass is original
    first, second = geom(), geom(size=1.0)
    first.color[0] = 9.0
    assert second.color.tolist() == [1.0, 0.0]
    assert (first.size, second.size) == (0.5, 1.0)
    with pytest.raises(ValueError, match="mutable default"):
        define_dataclass_with_array_default()


def test_the_standard_library_is_restored_when_the_import_fails() -> None:
    original = dataclasses.dataclass
    with pytest.raises(RuntimeError, match="half-way"), compat.array_defaults_allowed():
        raise RuntimeError("half-way")
    assert dataclasses.dataclass is original


def test_a_joint_is_found_by_a_one_element_array() -> None:
    class StrictModel:  # refuses arrays as MuJoCo 3 does
        def jnt(self, key: int | str = -1) -> str:
            if isinstance(key, np.ndarray):
                raise TypeError("incompatible function arguments")
            return f"joint {key}"

    with pytest.raises(TypeError, match="incompatible"):
        StrictModel().jnt(np.array([3]))
    compat.accept_one_element_joint(StrictModel)
    model = StrictModel()
    assert [model.jnt(np.array([3])), model.jnt(3), model.jnt("knee"), model.jnt()] == [
        "joint 3",
        "joint 3",
        "joint knee",
        "joint -1",
    ]


def test_the_installed_mujoco_finds_a_joint_by_a_one_element_array() -> None:
    compat.import_safety_gymnasium()
    for key in (np.array([0]), 0, "hinge"):
        assert MODEL.jnt(key).name == "hinge"
    with pytest.raises(ValueError, match="size 1"):
        MODEL.jnt(np.array([0, 1]))


def test_a_marker_s_material_is_initialised() -> None:
    class Renderer:
        def __init__(self) -> None:
            self.scn = mujoco.MjvScene(MODEL, 1)

        def _add_marker_to_scene(self, marker: dict[str, float]) -> None:
            if self.scn.ngeom >= self.scn.maxgeom:
                raise RuntimeError("out of geoms")
            self.scn.geoms[self.scn.ngeom].shininess = marker["shininess"]
            self.scn.ngeom += 1

    compat.initialise_markers(Renderer, mujoco)
    renderer = Renderer()
    geom = renderer.scn.geoms[0]
    material = "matid" if hasattr(geom, "matid") else "texid"  # MuJoCo 3, MuJoCo 2
    setattr(geom, material, 12345)  # as memory that nobody cleared
    renderer._add_marker_to_scene({"shininess": 0.25})
    assert getattr(renderer.scn.geoms[0], material) == -1
    assert renderer.scn.geoms[0].shininess == 0.25
    with pytest.raises(RuntimeError, match="out of geoms"):
        renderer._add_marker_to_scene({"shininess": 0.25})


def test_float_takes_a_one_element_array_in_the_repaired_module_only() -> None:
    module = SimpleNamespace()
    compat.accept_one_element_float(module)
    assert [module.float(np.array([0.5])), module.float(2), module.float("3")] == [0.5, 2.0, 3.0]
    with pytest.raises(ValueError, match="size 1"):
        module.float(np.zeros(2))


@pytest.mark.parametrize("task", ["SafetyDoggoGoal1-v0", "SafetyAntGoal1-v0"])
def test_robots_with_many_joints_step(task: str) -> None:
    env = make_environment(task, seed=0)
    observation, _ = env.reset()
    moved = env.step(env.action_space.high)[0]
    assert not np.array_equal(observation, moved)


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {}, "egl"),
        ("linux", {"DISPLAY": ":0"}, None),
        ("linux", {"WAYLAND_DISPLAY": "wayland-0"}, None),
        ("linux", {"MUJOCO_GL": "osmesa"}, "osmesa"),
        ("darwin", {}, None),
    ],
)
def test_frames_are_drawn_without_a_display_unless_the_user_chose(
    monkeypatch: pytest.MonkeyPatch,
    platform: str,
    variables: dict[str, str],
    expected: str | None,
) -> None:
    environ = dict(variables)
    monkeypatch.setattr(compat, "sys", SimpleNamespace(platform=platform))
    monkeypatch.setattr(compat, "os", SimpleNamespace(environ=environ))
    compat._render_headless()
    assert environ.get("MUJOCO_GL") == expected


@pytest.mark.parametrize("package", ["mujoco", "safety_gymnasium"])
def test_a_missing_package_is_named_with_the_command(
    monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    uncached = compat.import_safety_gymnasium.__wrapped__
    with pytest.raises(ImportError, match=rf"need the package '{package}'.*pip install --no-deps"):
        uncached()


@pytest.mark.parametrize(
    ("version", "extra"), [("0.28.1", "environments"), ("1.4.0", "gymnasium-1")]
)
def test_the_command_does_not_exchange_gymnasium(
    monkeypatch: pytest.MonkeyPatch, version: str, extra: str
) -> None:
    pretend_gymnasium_is(monkeypatch, version)
    error = compat.missing_package(ModuleNotFoundError(name="mujoco"))
    assert f"pip install 'cerl-blocks[{extra}]' && pip install --no-deps" in str(error)


@pytest.mark.parametrize(
    ("task", "steps", "task_return", "cost"),
    [
        ("SafetyPointGoal1-v0", 100, -0.231, 0),
        pytest.param("SafetyWalker2dVelocity-v1", 64, 37.397, 0, marks=needs_present_xml),
        pytest.param("SafetySwimmerVelocity-v1", 100, 17.079, 51, marks=needs_present_xml),
    ],
)
def test_an_episode_is_that_of_gymnasium_0_28_and_mujoco_2(
    task: str, steps: int, task_return: float, cost: float
) -> None:
    env = make_environment(task, seed=3)
    env.reset()
    noise = np.random.default_rng(0)
    rewards, costs = [], []
    terminated = False
    while len(rewards) < 100 and not terminated:
        action = noise.uniform(-1, 1, env.action_space.shape).astype(np.float32)
        _, reward, terminated, _, info = env.step(action)
        rewards.append(reward)
        costs.append(info["cost"])
    assert (len(rewards), sum(costs)) == (steps, cost)
    assert sum(rewards) == pytest.approx(task_return, abs=1e-3)


@pytest.mark.parametrize(
    ("version", "expected"), [("0.28.1", False), ("1.1.0", True), ("1.10.2", True), ("2.0", True)]
)
def test_gymnasium_s_version_is_read(
    monkeypatch: pytest.MonkeyPatch, version: str, expected: bool
) -> None:
    pretend_gymnasium_is(monkeypatch, version)
    assert gymnasium_1.is_installed() == expected


def test_the_gymnasium_that_sorts_observations_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_gymnasium_is(monkeypatch, "1.0.0")
    with pytest.raises(ImportError, match=r"got 1\.0\.0, which .*allowed 0\.28\.1 or >= 1\.1"):
        compat.import_safety_gymnasium.__wrapped__()


def test_old_wrapper_modules_exist_within_the_context_only(monkeypatch: pytest.MonkeyPatch) -> None:
    class TimeLimit: ...

    places = ("common", "stateful_observation", "stateful_reward", "utils")
    names = {new.split(".")[1] for new in gymnasium_1.MOVED_WRAPPERS.values()} - {"TimeLimit"}
    for place in places:
        fake = SimpleNamespace(TimeLimit=TimeLimit, **dict.fromkeys(names))
        monkeypatch.setitem(sys.modules, f"gymnasium.wrappers.{place}", fake)
    for old in ("autoreset", "compatibility", "env_checker", "normalize", "time_limit"):
        monkeypatch.delitem(sys.modules, f"gymnasium.wrappers.{old}", raising=False)
    before = set(sys.modules)
    with gymnasium_1.old_wrapper_modules():
        found = importlib.import_module("gymnasium.wrappers.time_limit").TimeLimit
    assert found is TimeLimit
    assert set(sys.modules) == before
    with pytest.raises(RuntimeError, match="half-way"), gymnasium_1.old_wrapper_modules():
        raise RuntimeError("half-way")
    assert set(sys.modules) == before


def test_an_old_spec_takes_the_fields_that_gymnasium_1_dropped() -> None:
    @dataclasses.dataclass
    class EnvSpec:
        id: str
        max_episode_steps: int = 1000

    registered = EnvSpec("Task-v0", 500)
    registration: Any = SimpleNamespace(EnvSpec=EnvSpec, _find_spec=lambda name: registered)
    with pytest.raises(TypeError, match="autoreset"):
        registration.EnvSpec(id="Task-v0", autoreset=False)
    gymnasium_1.accept_old_specs(registration)
    made = registration.EnvSpec(id="Task-v0", autoreset=False, apply_api_compatibility=False)
    found = registration._find_spec("Task-v0")
    assert isinstance(made, EnvSpec)
    assert dataclasses.asdict(made) == {"id": "Task-v0", "max_episode_steps": 1000}
    assert isinstance(found, registration.EnvSpec)
    assert (found.max_episode_steps, found.autoreset, found.apply_api_compatibility) == (
        500,
        False,
        False,
    )
    assert type(registered) is EnvSpec


@pytest.mark.parametrize(("version", "sizes"), [("0.28.1", ()), ("1.4.0", (96, 64))])
def test_the_viewer_gets_the_size_of_the_model_s_buffer(
    monkeypatch: pytest.MonkeyPatch, version: str, sizes: tuple[int, ...]
) -> None:
    rendering = SimpleNamespace(OffScreenViewer=lambda *arguments: arguments)
    monkeypatch.setitem(sys.modules, "gymnasium.envs.mujoco.mujoco_rendering", rendering)
    pretend_gymnasium_is(monkeypatch, version)
    buffer = SimpleNamespace(offwidth=96, offheight=64)
    model = SimpleNamespace(vis=SimpleNamespace(global_=buffer))
    assert gymnasium_1.offscreen_viewer(model, "data") == (model, "data", *sizes)


@pytest.mark.filterwarnings("error")
def test_an_overflow_in_the_bounds_is_silent_for_agents_only() -> None:
    class Agent:
        def _build_action_space(self) -> bool:
            return bool(np.isneginf(np.float64(-1e300).astype(np.float32)))

    with pytest.raises(RuntimeWarning, match="overflow"):
        Agent()._build_action_space()
    gymnasium_1.quiet_action_space(Agent)
    assert Agent()._build_action_space()
    with pytest.raises(RuntimeWarning, match="overflow"):
        np.float64(1e300).astype(np.float32)


@needs_gymnasium_1
def test_gymnasium_itself_is_not_changed() -> None:
    compat.import_safety_gymnasium()
    from gymnasium.envs.registration import registry

    with pytest.raises(ModuleNotFoundError, match="time_limit"):
        importlib.import_module("gymnasium.wrappers.time_limit")
    assert not hasattr(registry["SafetyPointGoal1-v0"], "autoreset")


@needs_gymnasium_1
@pytest.mark.filterwarnings("error")
def test_safety_gymnasium_s_own_make_truncates_and_reports_costs() -> None:
    env = compat.import_safety_gymnasium().make("SafetySwimmerVelocity-v1", max_episode_steps=2)
    env.reset(seed=0)
    ends = [env.step(env.action_space.sample())[2:5] for _ in range(2)]
    assert [end[1:] for end in ends] == [(False, False), (False, True)]
    assert {cost for cost, *_ in ends} <= {0.0, 1.0}
