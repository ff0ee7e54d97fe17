"""Start recipes in separate processes, which tests stop, kill and wait for."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path


def launch(
    script: Path, *arguments: object, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """A script as users run it, on one thread for each operation, where Ctrl-C is heard."""
    return subprocess.Popen(
        [sys.executable, str(script), *map(str, arguments)],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | dict(environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # What a shell runs in the background, and its children, would ignore the interrupt.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )


def finish(process: subprocess.Popen[str], code: int = 0) -> tuple[str, str]:
    """Its output and its errors, once it has ended with this exit code."""
    try:
        out, err = process.communicate(timeout=250)
    finally:
        process.kill()
    assert process.returncode == code, err[-2000:]
    return out, err


def said(text: str) -> str:
    """What a program printed as one line, without the box that tyro draws around its errors."""
    return " ".join(re.sub(r"\x1b\[[0-9;]*m|[╭╮╰╯│─]", " ", text).split())
