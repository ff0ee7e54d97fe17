"""Skips tests where nothing can be drawn; not in conftest.py, which needs torch."""

import os
import subprocess
import sys

import pytest


def skip_without_opengl() -> None:
    """MuJoCo itself is asked, so that our own failure to draw is a failure."""
    probe = "import mujoco; mujoco.GLContext(64, 64).make_current()"
    backend = {"MUJOCO_GL": os.environ.get("MUJOCO_GL", "egl")}
    asked = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, env=os.environ | backend
    )
    if asked.returncode:
        said = asked.stderr.strip().splitlines() or [f"exit status {asked.returncode}"]
        pytest.skip(f"no OpenGL here: {said[-1]}")
