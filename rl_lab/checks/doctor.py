"""This module checks whether this machine can run the lab; each check returns one line, with advice where it fails.

`rl-lab doctor` prints what `run_checks` returns. The checks import packages, compile a small world (which fills the
cache folder of machine code), start numba's threads and look at the system; they change nothing else.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from rl_lab.core.errors import UsageError
from rl_lab.engine.compiler import cache_folder

# numba's threading layers that are fast and safe; its third, workqueue, costs milliseconds a launch and is not
# thread-safe.
_GOOD_LAYERS = ("omp", "tbb")


@dataclass(frozen=True)
class Check:
    """The result of one check, whose fields are the keys of `rl-lab doctor --json`."""

    name: str
    status: str  # ok, note or fail
    detail: str  # one line
    advice: str = ""  # what to do; empty where there is no problem


def run_checks() -> list[dict[str, Any]]:
    """Return the results of all checks as dictionaries; a check that raises an exception has failed."""
    checks: list[tuple[str, Callable[[], Check]]] = [
        ("python", _python),
        ("packages", _packages),
        ("cores", _cores),
        ("compiler", _compiler),  # before the threads, which use what it has compiled: it is timed
        ("threads", _threading),
        ("cache", _cache),
        ("torch", _torch),
        ("video", _video),
        ("display", _display),
        ("runs", _runs),
    ]
    results = []
    for name, check in checks:
        try:
            results.append(asdict(check()))
        except UsageError as error:  # it says what to do
            problem, _, advice = str(error).partition(": ")
            results.append(asdict(Check(name, "fail", problem, advice)))
        except Exception as error:
            text = f"{type(error).__name__}: {error}".partition("\n")[0]
            advice = "reinstall with: make install"
            if name in ("compiler", "threads"):
                advice = f"remove {cache_folder()} and try again; else {advice}"
            results.append(asdict(Check(name, "fail", text, advice)))
    return results


def _python() -> Check:
    return Check("python", "ok", f"{platform.python_version()} on {platform.platform()}")


def _packages() -> Check:
    from rl_lab.experiments.run_record import versions

    installed = versions()
    missing = [name for name, version in installed.items() if version is None]
    text = ", ".join(f"{name} {version}" for name, version in installed.items() if version)
    return Check("packages", "fail" if missing else "ok", text, f"install {', '.join(missing)}" if missing else "")


def _cores() -> Check:
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    busy = load > 0.5 * (count or 1)
    advice = "something else is running: benchmarks will be off" if busy else ""
    return Check("cores", "note" if busy else "ok", f"{count} usable, load {load:.1f}", advice)


def _threading() -> Check:
    import numpy as np
    from numba import threading_layer

    from rl_lab.engine import world_registry
    from rl_lab.engine.batch import Batch

    batch = Batch(world_registry.load("cartpole"), 64, threads=2)
    batch.reset()
    batch.actions[...] = np.zeros_like(batch.actions)
    batch.step()
    layer = threading_layer()
    advice = "" if layer in _GOOD_LAYERS else "install tbb, or run many worlds with threads=1: this layer is slow"
    return Check("threads", "note" if advice else "ok", f"numba's layer is {layer}", advice)


def _compiler() -> Check:
    import numpy as np

    from rl_lab.engine import world_registry
    from rl_lab.engine.batch import Batch

    begin = time.perf_counter()
    batch = Batch(world_registry.load("cartpole"), 4096, threads=1)
    batch.reset()
    batch.step()
    seconds_to_first_step = time.perf_counter() - begin
    times = []
    for _ in range(50):
        begin = time.perf_counter()
        batch.step()
        times.append(time.perf_counter() - begin)
    rate = batch.num_envs / float(np.median(times))
    text = f"cartpole ready in {seconds_to_first_step:.2f} s, {rate / 1e6:.0f} M steps/s on one core"
    return Check("compiler", "ok", text)


def _cache() -> Check:
    folder = cache_folder()
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return Check("cache", "ok", f"{folder}, {size / 2**20:.0f} MiB of compiled worlds")


def _torch() -> Check:
    import torch

    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no CUDA device, device=auto is the CPU"
    return Check("torch", "ok", f"{torch.__version__}, {device}")


def _video() -> Check:
    import imageio_ffmpeg

    return Check("video", "ok", f"ffmpeg {imageio_ffmpeg.get_ffmpeg_version()} in {imageio_ffmpeg.get_ffmpeg_exe()}")


def _display() -> Check:
    from rl_lab.rendering.window import has_display

    text = "a window can be opened" if has_display() else "none: watch renders a file instead"
    return Check("display", "ok", text)


def _runs() -> Check:
    import shutil
    from pathlib import Path

    free = shutil.disk_usage(Path.cwd()).free / 2**30
    writable = os.access(Path.cwd(), os.W_OK)
    advice = "" if writable and free > 1 else "free some space, or give another place with run_dir=PATH"
    text = f"{free:.0f} GiB free here" if writable else "this folder is read-only"
    return Check("runs", "ok" if not advice else "fail", text, advice)
