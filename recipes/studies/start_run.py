"""Start or resume one run of a study, or audit it, then become the process of that script.

    python start_run.py PARENT train|audit FOLDER SCRIPT [ARGUMENTS...]

The process waits until no other process writes the run's folder: a node that seemed lost may still
be running it. It ends when its parent, the study, ends. It needs only the standard library; the
script replaces it in the same process, with the same process ID.
"""

import ctypes
import fcntl
import os
import platform
import shutil
import signal
import sys
import time
from pathlib import Path

LOCK_TIMEOUT = 60.0  # seconds to wait for an earlier process to end
PR_SET_PDEATHSIG = 1  # from <linux/prctl.h>


def main(parent: str, task: str, folder: str, script: str, *arguments: str) -> None:
    end_with_parent(int(parent))
    wait_for_lock()
    command = [sys.executable, script, *arguments]
    if task == "train":
        flag = prepare_folder(Path(folder))
        if flag is None:
            return
        command.append(flag)
    command.append(folder)
    started = time.strftime("%Y-%m-%d %H:%M:%S")
    print(f"{started} {platform.node()} pid {os.getpid()}: {' '.join(command)}", flush=True)
    # Background processes of a shell ignore SIGINT, and Ray's workers block it.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    os.execv(command[0], command)


def end_with_parent(parent: int) -> None:
    """Ask the kernel to kill this process when its parent ends (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it has ended already
        sys.exit(1)


def wait_for_lock() -> None:
    """Lock the log that stderr goes to until this process ends; exit if another one keeps it."""
    deadline = time.monotonic() + LOCK_TIMEOUT
    while True:
        try:
            return fcntl.flock(sys.stderr, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                sys.exit("error: another process still writes this run; its log (.out) names it")
            time.sleep(0.1)


def prepare_folder(folder: Path) -> str | None:
    """Return the recipe's flag for its folder, --out or --resume, or None if the run is done."""
    if (folder / "summary.json").exists():
        return None
    if any((folder / "checkpoints").glob("step-*.pt")):
        return "--resume"
    if folder.exists():  # stopped before its first checkpoint, so there is nothing to resume
        shutil.rmtree(folder)
    return "--out"


if __name__ == "__main__":
    main(*sys.argv[1:])
