"""Reads a recipe's command line into its dataclass; what is wrong is said in one line."""

import io
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from typing import TypeVar

import tyro

Settings = TypeVar("Settings")


def read_command_line(
    kind: type[Settings], arguments: list[str], default: Settings | None = None
) -> Settings:
    """What tyro reads; the box of many lines in which it refuses becomes a ValueError of one.

    Args:
        kind: the dataclass whose fields are the flags.
        arguments: the command line, without the program's name.
        default: where the defaults come from; the fields' own if None.
    """
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            if default is None:
                return tyro.cli(kind, args=arguments)
            return tyro.cli(kind, args=arguments, default=default)
    except SystemExit as stop:
        if not stop.code:  # --help
            raise
        text = re.sub(r"\x1b\[[0-9;]*m|[╭╮╰╯│]", "", said.getvalue())
        parts = [part.strip() for part in re.split(r"[─-]{9,}", text) if part.strip()]
        message = "; ".join(parts[1:-1]).removeprefix(f"Error parsing {kind.__name__}: ")
        raise ValueError(message or text) from None  # without the title and the last advice


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """What is wrong with input or files ends the program with code 2 and one line on stderr.

    With CERL_TRACEBACK set it is raised.
    """
    try:
        yield
    except (ValueError, RuntimeError) as error:
        if os.environ.get("CERL_TRACEBACK"):
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
