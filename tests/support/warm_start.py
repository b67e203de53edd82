"""The program of a process that has imported the lab and its libraries, and forks a child for each program to run.

`programs.py` starts it and sends requests through a socket: a command line, environment, folder and standard streams,
or the number of a process to wait for. In the child, the interpreter is as a new one would be: an empty `__main__`, its
own standard streams, default handlers of signals; and the child ends as any interpreter does. The parent process runs
no compiled code and starts no threads, because a fork copies only one thread.
"""

import gc
import importlib
import io
import json
import multiprocessing.process
import os
import pkgutil
import random
import runpy
import signal
import socket
import sys
import types
import warnings
from typing import Any

LIBRARIES = "torch stable_baselines3 sb3_contrib numba scipy.linalg scipy.stats hydra gymnasium.vector torch.utils.data"
PACKAGES = "commands experiments evaluation learners.sb3 learners.compiled engine games games.search tournament"


def import_all() -> None:
    """Import all that commands import, except Ray, which changes sys.path, and rl_lab.cli, which becomes `__main__`."""
    for name in LIBRARIES.split():
        importlib.import_module(name)
    for package in PACKAGES.split():
        folder = importlib.import_module(f"rl_lab.{package}").__path__
        for module in pkgutil.iter_modules(folder):
            if not module.ispkg and not module.name.endswith("_worker") and not module.name.startswith("ray_"):
                importlib.import_module(f"rl_lab.{package}.{module.name}")
    from numba.core.registry import cpu_target

    cpu_target.typing_context.refresh()  # numba would do this before it loads the first function
    cpu_target.target_context.refresh()


def fork_programs(control: socket.socket) -> dict[str, Any]:
    """Answer requests until this process ends. Return only in a forked child: the request that it has to run."""
    while True:
        try:
            message, descriptors, _, _ = socket.recv_fds(control, 1 << 20, 3)
        except KeyboardInterrupt:
            continue  # Ctrl-C is for pytest; this process ends when the socket is closed
        if not message:
            os._exit(0)
        request: dict[str, Any] = json.loads(message)
        if "wait" in request:
            pid, status = os.waitpid(request["wait"], os.WNOHANG)
            control.send(json.dumps([pid, status]).encode())
            continue
        pid = os.fork()
        if pid == 0:
            control.close()
            for number, descriptor in enumerate(descriptors):
                os.dup2(descriptor, number)
                os.close(descriptor)
            return request
        for descriptor in descriptors:
            os.close(descriptor)
        control.send(json.dumps(pid).encode())


def standard_stream(descriptor: int, mode: str) -> io.TextIOWrapper:
    """Return a file object for a standard stream, with the buffering and encoding that the interpreter gives it."""
    stream_of_this_process = (sys.__stdin__, sys.__stdout__, sys.__stderr__)[descriptor]
    unbuffered = mode == "w" and stream_of_this_process.write_through
    raw = open(descriptor, mode + "b", 0 if unbuffered else -1, closefd=False)  # noqa: SIM115
    getattr(raw, "raw", raw).name = stream_of_this_process.name
    by_line = not unbuffered and (descriptor == 2 or raw.isatty())
    text = io.TextIOWrapper(
        raw,
        stream_of_this_process.encoding,
        stream_of_this_process.errors,
        line_buffering=by_line,
        write_through=unbuffered,
    )
    text.mode = mode
    return text


def enter_program_process(request: dict[str, Any]) -> None:
    """Give this forked child the session, folder, environment, streams and random generators of a new process."""
    if request["session"]:
        os.setsid()
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    added_paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[1:1] = [path for path in added_paths if path and path not in sys.path]
    sys.stdin = sys.__stdin__ = standard_stream(0, "r")
    sys.stdout = sys.__stdout__ = standard_stream(1, "w")
    sys.stderr = sys.__stderr__ = standard_stream(2, "w")
    signal.signal(signal.SIGINT, signal.default_int_handler)
    multiprocessing.process.ORIGINAL_DIR = request["cwd"]  # where spawned children look for the main module
    random.seed()
    sys.modules["numpy"].random.seed()  # torch's generator has the same seed in every process that starts


def run_program(words: list[str]) -> None:
    """Do what the interpreter does with these words of its command line: -c CODE, -m MODULE or FILE.py."""
    main = types.ModuleType("__main__")
    main.__builtins__, main.__annotations__ = __builtins__, {}
    sys.modules["__main__"] = main
    sys.orig_argv[1:] = words
    if words[0] == "-P":
        words, sys.path[:1] = words[1:], []
    else:
        sys.path[0] = {"-c": "", "-m": os.getcwd()}.get(words[0], os.path.dirname(os.path.realpath(words[0])))
    if words[0] == "-m":
        sys.argv = ["-m", *words[2:]]
        runpy._run_module_as_main(words[1])
    elif words[0] == "-c":
        sys.argv = ["-c", *words[2:]]
        exec(compile(words[1], "<string>", "exec"), main.__dict__)
    else:
        sys.argv = words
        main.__file__, main.__cached__ = words[0], None
        with io.open_code(os.path.abspath(words[0])) as file:
            exec(compile(file.read(), words[0], "exec"), main.__dict__)


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import_all()
    warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)  # OpenBLAS's, which fork
    gc.collect()
    gc.freeze()
    os.fsync = os.fstat  # as in conftest.py: a test's files need not outlast a power failure
    program = fork_programs(socket.socket(fileno=int(sys.argv[1])))
    warnings.filters.pop(0)
    enter_program_process(program)
    run_program(program["words"])
