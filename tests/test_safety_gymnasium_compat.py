"""Each repair of Safety-Gymnasium by itself: what fails without it works with it, and no more."""

import dataclasses
import sys
from types import SimpleNamespace

import mujoco
import numpy as np
import pytest

from blocks.environments import compatibility as compat
from blocks.environments.safety_gymnasium import make_environment

MODEL = mujoco.MjModel.from_xml_string(
    "<mujoco><worldbody><body><joint name='hinge' type='hinge'/><geom size='0.1'/></body>"
    "</worldbody></mujoco>"
)


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
