"""Errors about run folders; print errors in one line and exit with code 2."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class RunError(ValueError):
    """A run folder is missing, damaged or unsuitable; the message is one line for the user."""


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """Print a ValueError or RuntimeError as one line on stderr and exit with code 2.

    With CERL_TRACEBACK set, the error is raised.
    """
    try:
        yield
    except (ValueError, RuntimeError) as error:
        if os.environ.get("CERL_TRACEBACK"):
            raise
        print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(2)


def one_line(error: Exception) -> str:
    """Join the error's message and its notes to one line with single spaces."""
    notes = getattr(error, "__notes__", ())
    return " ".join("".join((str(error), *notes)).split())
