"""What a run ran on: versions, commit and hardware, so that its figures can be placed later."""

import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path

import torch

PACKAGES = (
    *("torch", "pyro-ppl", "numpy", "gymnasium", "mujoco", "safety-gymnasium"),
    "omnisafe",  # where recipes are compared with its algorithms
)


def installed_versions() -> dict[str, str | None]:
    """The versions a run depends on; None where a package is not installed."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return versions


def git_commit() -> dict[str, str | bool] | None:
    """The commit of this code and whether the tree differs from it; None outside git."""
    try:
        git = ("git", "-C", str(Path(__file__).parent))
        commit = subprocess.check_output((*git, "rev-parse", "HEAD"), stderr=subprocess.DEVNULL)
        changes = subprocess.check_output((*git, "status", "--porcelain"))
    except (OSError, subprocess.SubprocessError):
        return None
    return {"hash": commit.decode().strip(), "dirty": bool(changes)}


def hardware() -> dict[str, str | int | float | None]:
    """The machine: processor, cores, memory, the threads torch uses, the GPU if there is one."""
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
