"""The packages as users install them: from a wheel, in a separate virtual environment."""

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
Run = Callable[..., str]


def call(*command: object, cwd: Path) -> str:
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=clean | {"MUJOCO_GL": "disabled", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Python with the wheel installed; torch and the like are this environment's."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    source = folder / "source"  # building leaves files behind
    for package in ("blocks", "recipes"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, source / package, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    call(*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, source, cwd=folder)
    (wheel,) = folder.glob("cerl_blocks-*.whl")
    call(sys.executable, "-m", "venv", "--without-pip", folder / "venv", cwd=folder)
    site = Path(call(folder / "venv/bin/python", "-c", SITE, cwd=folder).strip())
    call(*pip, "install", "--no-deps", "--target", site, wheel, cwd=folder)
    # A path file within this folder is not followed, so the editable install stays out of sight.
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")

    def run(*arguments: object) -> str:
        return call(folder / "venv/bin/python", *arguments, cwd=folder)

    return run


SITE = "import sysconfig; print(sysconfig.get_path('purelib'))"


def test_both_packages_are_imported_from_the_wheel(python: Run) -> None:
    printed = python("-c", "import blocks, recipes.cerl_full as r; print(blocks.__file__, r.CERL)")
    assert "venv" in printed
    assert str(ROOT) not in printed
    assert python("-c", "from blocks import *; print(LBSGD.__module__)") == (
        "blocks.optimizers.lbsgd\n"
    )


def test_data_files_are_there(python: Run) -> None:
    code = """
from importlib.resources import files
for package, name in (
    ("blocks", "py.typed"), ("blocks", "__init__.pyi"), ("recipes", "py.typed"),
    ("recipes.reports", "published.toml"), ("recipes.reports", "templates/report.html.jinja"),
):
    assert files(package).joinpath(name).is_file(), name
"""
    python("-c", code)


def test_a_recipe_and_its_report_run_as_modules(python: Run) -> None:
    sizes = ("--smoke", "--steps", 2000, "--action-repeat", 10)
    printed = python("-m", "recipes.cerl_full", *sizes, "--out", "run")
    assert "the run is in run" in printed
    assert "the report is in" in python("-m", "recipes.report", "run", "--out", "report")
    assert "--seeds" in python("-m", "recipes.study", "--help")
