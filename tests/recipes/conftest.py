"""Runs recipes and experiments as users do."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture(scope="session")
def launch() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a recipe or experiment as users do: `launch(name, *arguments, cwd=...)`."""

    def run(
        name: str, *arguments: object, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        script = RECIPES / f"{name}.py"
        module = f"recipes.experiments.{name.removeprefix('experiment_')}"
        command = [str(script)] if script.exists() else ["-m", module]
        return subprocess.run(
            [sys.executable, *command, *map(str, arguments)],
            cwd=cwd,
            env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "130"},
            capture_output=True,
            text=True,
            timeout=250,
            check=False,
        )

    return run
