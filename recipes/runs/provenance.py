"""Record versions, commit and hardware of a run."""

import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path

import torch

PACKAGES = (
    *("torch", "pyro-ppl", "numpy", "gymnasium", "mujoco", "safety-gymnasium"),
    "omnisafe",  # only for the model-free reference
)


def installed_versions() -> dict[str, str | None]:
    """Look up the versions of Python and packages; None if a package is not installed."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return versions


def git_commit() -> dict[str, str | bool] | None:
    """Look up the commit and whether the working tree differs from it; None outside of git."""
    try:
        git = ("git", "-C", str(Path(__file__).parent))
        commit = subprocess.check_output((*git, "rev-parse", "HEAD"), stderr=subprocess.DEVNULL)
        changes = subprocess.check_output((*git, "status", "--porcelain"))
    except (OSError, subprocess.SubprocessError):
        return None
    return {"hash": commit.decode().strip(), "dirty": bool(changes)}


def hardware() -> dict[str, str | int | float | None]:
    """Describe the machine: processor, cores, memory, torch's threads, the GPU if there is one."""
    cpuinfo = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.+)", cpuinfo.read_text()) if cpuinfo.exists() else None
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": model[1] if model else platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory / 2**30, 1),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
