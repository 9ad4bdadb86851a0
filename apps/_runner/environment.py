"""What a run records about the code and the machine that made its numbers."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import torch

__all__ = ["commit", "hardware", "versions"]

ROOT = Path(__file__).parents[2]


def commit() -> dict[str, str | bool]:
    """Returns the commit of the checkout and whether tracked files differ from it."""

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *words],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        return done.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(changed)}
    except (OSError, subprocess.SubprocessError):
        return {"commit": "unknown", "dirty": False}


def versions() -> dict[str, str]:
    """Returns the versions of Python, of the main libraries and of our packages."""
    found = {"python": platform.python_version()}
    for distribution in metadata.distributions():
        name = distribution.name
        if name in ("torch", "numpy", "rdkit") or name.startswith("lv-"):
            found[name] = distribution.version
    return dict(sorted(found.items()))


def hardware(device: torch.device, processes: int) -> dict[str, str | int]:
    """Returns the names of device and CPU, the number of cores, processes and threads."""
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        models = [line.partition(":")[2].strip() for line in lines if "model name" in line]
        cpu = models[0] if models else cpu
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu
    return {
        "device": name,
        "cpu": cpu,
        "cores": os.cpu_count() or 1,
        "processes": processes,
        "threads": torch.get_num_threads(),
    }
