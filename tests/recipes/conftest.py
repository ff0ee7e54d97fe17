"""Recipes are scripts that import each other as siblings: put their folder on the path."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

RECIPES = Path(__file__).parents[2] / "recipes"
sys.path.insert(0, str(RECIPES))


@pytest.fixture(scope="session")
def launch() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a recipe as users do: `launch(name, *arguments, cwd=...)`."""

    def run(
        name: str, *arguments: object, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(RECIPES / f"{name}.py"), *map(str, arguments)],
            cwd=cwd,
            env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "130"},
            capture_output=True,
            text=True,
            timeout=250,
            check=False,
        )

    return run
