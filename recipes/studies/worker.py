"""One run of a study: becomes the recipe's process, which begins the run or goes on with it.

    python study_process.py PARENT FOLDER LOG SCRIPT [ARGUMENTS...]

It waits until no other process writes the run's folder, so that a run whose node seemed lost is
never written twice at once, and it ends when the study does. Needs only the standard library, and
is replaced by the recipe (same process, same PID) as soon as it knows how to call it.
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

PATIENCE = 60.0  # seconds that the process before this one has to end
PR_SET_PDEATHSIG = 1  # from <linux/prctl.h>


def main(parent: str, folder: str, log: str, script: str, *arguments: str) -> None:
    end_with(int(parent))
    own(Path(log))
    where = begin_or_resume(Path(folder))
    if where is None:
        return
    command = [sys.executable, script, *arguments, where, folder]
    at = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {platform.node()} pid {os.getpid()}"
    print(f"{at}: {' '.join(command)}", flush=True)
    hear_interrupts()
    os.execv(command[0], command)


def end_with(parent: int) -> None:
    """Have the kernel kill this process when `parent` ends (Linux; elsewhere `own` protects)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before
        sys.exit(1)


def own(log: Path) -> None:
    """Write to `log`.out and `log`.err from now on; holding the lock on the latter till the end."""
    log.parent.mkdir(parents=True, exist_ok=True)
    out, err = (
        os.open(f"{log}{suffix}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        for suffix in (".out", ".err")
    )
    os.dup2(out, 1)
    os.dup2(err, 2)
    os.set_inheritable(err, True)  # on NFS the lock is lost with the first descriptor that closes
    if not lock(err, PATIENCE):
        sys.exit(f"error: another process still writes this run: {log}.out names it")


def lock(descriptor: int, patience: float) -> bool:
    """Whether this process has got the lock on an open file within `patience` seconds."""
    last = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > last:
                return False
            time.sleep(0.1)
        else:
            return True


def hear_interrupts() -> None:
    """What a shell runs in the background ignores them, and what Ray runs has them blocked."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])


def begin_or_resume(folder: Path) -> str | None:
    """How the recipe is told about its folder; None for a run that is over."""
    if (folder / "summary.json").exists():
        return None
    if any((folder / "checkpoints").glob("step-*.pt")):
        return "--resume"
    if folder.exists():  # stopped before its first checkpoint: there is nothing to go on from
        shutil.rmtree(folder)
    return "--out"


if __name__ == "__main__":
    main(*sys.argv[1:])
