"""Compiles a world's kernels into batch loops, and keeps the machine code on disk between processes.

numba's disk cache asks for a real source file and does not see edits in other files. So `loops.py` is copied into a
folder named by the fingerprint of everything that goes into the machine code: a second process finds it compiled, an
edited world has another name, and older folders are removed.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium.spaces import Discrete

from . import columns, layout, record, rng
from . import kernel as kernels

if TYPE_CHECKING:
    from .world import World

    address_to_pointer: Any
    inlined: Any
    jit: Any
    outlined: Any
    parallel_jit: Any
    quick: Any
    put: Any
    scratch: Any
    take: Any
    uncached: Any

KEPT_VERSIONS = 4  # of one world: several checkouts may share the cache
_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
_INNER = {**_OPTIONS, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}  # called by compiled code alone
_QUICK = {"reassoc", "contract", "nsz", "arcp"}  # sums in any order, but NaN and infinity stay what they are
_KEPT: list[Any] = []  # functions whose addresses are in use
_KERNELS = ("reset", "step", "observe", "legal", "expert", "novice")


def cache_folder() -> Path:
    """Return the folder compiled worlds are kept in: the user's cache, or a temporary one where that is read-only."""
    import platformdirs

    for folder in (
        platformdirs.user_cache_path("rl_lab"),
        Path(tempfile.gettempdir()) / f"rl_lab-{os.getuid()}",
    ):
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Machine code is loaded from here: it must be ours alone.
            if folder.stat().st_uid == os.getuid() and os.access(folder, os.W_OK | os.X_OK):
                return folder
        except OSError:
            continue
    raise OSError("no writable cache folder: set XDG_CACHE_HOME to a folder you can write to")


def loops(world: World) -> ModuleType:
    """Return the world's compiled loops: the functions of `loops.py`, each compiled or loaded at its first call."""
    return _loops(world)


@cache
def _loops(world: World) -> ModuleType:

    put, take = columns.reward_column()
    more = {"scratch": columns.scratch(), "put": put, "take": take}
    more["philox"] = kernels.link(rng.philox, inlining())
    plan = columns.plan(world)
    if plan:
        more |= {
            "gather_states": columns.transposer(plan.state, True),
            "load_state": columns.mover(plan.state, True, False),
            "save_state": columns.mover(plan.written, False, True),
            "scatter_states": columns.transposer(plan.written, False),
            "gather_params": columns.transposer(plan.params, True),
            "spread_params": columns.mover(plan.params, False, True),
            "load_params": columns.mover(plan.params, True, False),
        }
    templates = ("episode", "lanes", "loops") if plan else ("episode", "loops")
    return program(world, world.name, templates, _KERNELS, more, ("rng",))


def program(
    world: World,
    name: str,
    templates: tuple[str, ...],
    keys: tuple[str, ...],
    more: dict[str, Any],
    sources: tuple[str, ...] = (),
) -> ModuleType:
    """Return the last of these templates, executed over the world's kernels `keys` and what the others define.

    Its functions are compiled or loaded at their first call; `name` begins that of the folder they are kept in. `more`
    are further globals; `sources` are the modules, besides this one, that these come from.
    """
    constants = _constants(world)
    authored: list[Any] = [getattr(world, key) for key in keys]
    authored += [world.turns, world.present]
    done: dict[Any, Any] = {}
    namespace = {
        **constants,
        **{
            key: kernels.link(function, inlining(), done) if (function := getattr(world, key)) else None for key in keys
        },
        **{key: inlining()(function) for key, function in _readers(world).items()},
        "COMPILED": True,
        **more,
    }
    parts = [*(_template(file).read_text() for file in (*sources, "columns")), authored, list(constants.items())]
    return assemble(name, tuple(map(_template, templates)), namespace, layout, *parts)


@cache
def step_addresses(world: World) -> tuple[int, int]:
    """Return the addresses of the world's `check_some` and `step_some`."""
    return address(loops(world).check_some), address(loops(world).step_some)


@cache
def stepping() -> ModuleType:
    """Return the functions of `stepping.py`."""
    return assemble("stepping", (_template("stepping"),), {"call": caller()}, _template("layout").read_text())


def address(function: Any) -> int:
    """Return where the machine code of a function of an assembled module is: int64 f(int64, int64, int64)."""
    import numba
    from numba import types

    made = numba.cfunc(types.intp(types.intp, types.intp, types.intp), cache=True, error_model="numpy")(function)
    _KEPT.append(made)
    return int(made.address)


def assemble(name: str, templates: tuple[Path, ...], namespace: dict[str, Any], *parts: Any) -> ModuleType:
    """Return the last of these files, executed over this namespace, numba's words and what the other files define.

    Python may call what is `jit`, `parallel_jit` or `uncached`; the rest has no entrance for it. What is `jit` is
    compiled or loaded at its first call, from a folder whose name begins with `name` and goes on with the fingerprint
    of the files and of `parts`, which are whatever else the machine code depends on.
    """
    import numba

    texts = [template.read_text() for template in (*templates, _template("compiler"))]
    full_name = f"{name}-" + kernels.fingerprint(numba.__version__, *texts, *parts)
    source = templates[-1]
    folder = cache_folder() / full_name
    _publish(source, folder / source.name)
    os.utime(folder)
    _prune(folder.parent, name)

    namespace = {
        "carray": numba.carray,
        "prange": numba.prange,
        "address_to_pointer": _address_to_pointer(),
        "inlined": inlining(),
        "outlined": numba.njit(**_INNER),
        "quick": numba.njit(fastmath=_QUICK, **_INNER),
        "jit": numba.njit(cache=True, no_cfunc_wrapper=True, **_OPTIONS),
        "uncached": numba.njit(**_OPTIONS),  # for functions that call themselves: from numba's cache, they crash
        "parallel_jit": numba.njit(cache=True, parallel=True, **_OPTIONS),
        **namespace,
    }
    for template in templates[:-1]:
        namespace = vars(_execute(template, f"rl_lab_{template.stem}.{full_name}", namespace))
    return _execute(folder / source.name, f"rl_lab_compiled.{full_name}", namespace)


def inlining() -> Any:
    """Return the decorator that compiles a function into whoever calls it."""
    import numba

    return partial(numba.njit, forceinline=True, **_INNER)


@cache
def plain_loops(world: World) -> ModuleType:
    """Return the same loops over the author's own functions, for a debugger; pass them plain views of the arrays."""
    same: Callable[[Any], Any] = lambda function: function  # noqa: E731
    namespace = {
        **_constants(world),
        "LANES": 0,
        "COMPILED": False,
        **{key: getattr(world, key) for key in _KERNELS},
        **_readers(world),
        "philox": rng.philox,
        "carray": None,
        "address_to_pointer": None,
        "inlined": same,
        "outlined": same,
        "jit": same,
    }
    namespace = vars(_execute(_template("episode"), f"rl_lab_plain_episode.{world.name}", namespace))
    return _execute(_template("loops"), f"rl_lab_plain.{world.name}", namespace)


def _readers(world: World) -> dict[str, Callable[..., Any]]:
    """Return functions that read the State fields a world names, and what is legal where only the counts say it."""

    def field(s: Any) -> Any:
        return getattr(s, FIELD)  # type: ignore[name-defined]  # noqa: F821

    def element(s: Any, agent: Any) -> Any:
        return getattr(s, FIELD)[agent]  # type: ignore[name-defined]  # noqa: F821

    def everybody(s: Any, agent: Any) -> Any:
        return 1

    def counted(s: Any, agent: Any, p: Any, mask: Any) -> None:
        for k in range(COUNTS[agent]):  # type: ignore[name-defined]  # noqa: F821
            mask[k] = 1

    def over(function: Any, **names: Any) -> Any:
        return FunctionType(function.__code__, {"__name__": __name__, "__builtins__": __builtins__, **names})

    found = {
        "to_move": over(field, FIELD=world.turns or "t"),
        "present": over(element, FIELD=world.present) if world.present else everybody,
    }
    if world.masked and not world.legal:
        found["legal"] = over(counted, COUNTS=_limits(world)["COUNTS"])
    return found


def _template(name: str) -> Path:
    return Path(__file__).with_name(f"{name}.py")


def _constants(world: World) -> dict[str, Any]:
    plan = columns.plan(world)
    bytes_seen = np.zeros(world.observation.shape, world.observation.dtype).nbytes
    shape, fields = world.observation.shape, dict(world.State.dtype.fields or {})
    return {
        "STATE": world.State.dtype,
        "PARAMS": world.Params.dtype,
        "ACTION": world.action_dtype,
        "OBSERVATION": world.observation.dtype,
        "ACTION_SHAPE": world.action_shape,
        "OBSERVATION_SHAPE": shape,
        "OBSERVATION_SIZE": int(np.prod(shape)),
        "STATE_WORDS": world.State.dtype.itemsize // 8,
        "KEPT_WORDS": fields["t"][1] // 8,
        "LOG_WORD": fields["log"][1] // 8 if "log" in fields else 0,
        "LOG_SIZE": len(world.log_names),
        "LANES": columns.LANES if plan else 0,
        "GROUP": columns.GROUP,
        "STATE_COLUMNS": columns.size(plan.state) if plan else 0,
        "PARAMS_COLUMNS": columns.size(plan.params) if plan else 0,
        "STATE_BYTES": world.State.dtype.itemsize,
        "PARAMS_BYTES": world.Params.dtype.itemsize,
        "COLUMN": 8 * columns.LANES,
        "OBSERVATION_COLUMNS": columns.LANES * bytes_seen,
        "OBSERVATION_BYTES": bytes_seen,
        "A": len(world.agents),
        "SOLO": len(world.agents) == 1,
        "REAL": world.observation.low.dtype.kind == "f",
        "MASKED": world.masked,
        "MASK_SIZE": world.mask_size,
        "TURNS": bool(world.turns),
        "LEAVING": bool(world.present),
        "ZERO_SUM": world.zero_sum,
        "FORFEIT_REWARD": float(world.forfeit),
        **_limits(world),
    }


def _limits(world: World) -> dict[str, Any]:
    if isinstance(world.action, Discrete):
        counts = np.array([space.n for space in world.action_spaces], np.int64)  # type: ignore[union-attr]
        return {"DISCRETE": True, "COUNTS": counts, "LOWEST": None, "HIGHEST": None}
    # Whoever has fewer numbers in its action leaves the rest alone.
    low, high = (np.full((len(world.agents), *world.action_shape), side, np.float32) for side in (-np.inf, np.inf))
    for a, space in enumerate(world.action_spaces):
        low[a, : space.shape[0]], high[a, : space.shape[0]] = space.low, space.high  # type: ignore[index, union-attr]
    return {"DISCRETE": False, "COUNTS": None, "LOWEST": low, "HIGHEST": high}


def _publish(source: Path, target: Path) -> None:
    if target.exists():
        return
    target.parent.mkdir(exist_ok=True)
    partial_file = target.with_name(f".{os.getpid()}-{threading.get_ident()}.tmp")
    shutil.copyfile(source, partial_file)
    # numba stamps its cache with the source's time: all processes must see one and the same file.
    os.utime(partial_file, (1, 1))
    partial_file.replace(target)


def _prune(folder: Path, name: str) -> None:
    versions = [path for path in folder.glob(f"{name}-*") if len(path.name) == len(name) + 21]
    for old in sorted(versions, key=lambda path: path.stat().st_mtime)[:-KEPT_VERSIONS]:
        shutil.rmtree(old, ignore_errors=True)


def _execute(path: Path, name: str, namespace: dict[str, Any]) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"cannot load {path}")
    module = importlib.util.module_from_spec(spec)
    vars(module).update({key: value for key, value in namespace.items() if not key.startswith("__")})
    sys.modules[name] = module  # numba finds a cached function's module by name
    spec.loader.exec_module(module)
    return module


@cache
def caller() -> Any:
    """Return the intrinsic `call(function, low, high, batch)`: calls int64 f(int64, int64, int64) at an address."""
    from llvmlite import ir
    from numba import types
    from numba.extending import intrinsic

    word = ir.IntType(64)
    kind = ir.FunctionType(word, [word] * 3).as_pointer()

    @intrinsic  # type: ignore[untyped-decorator]
    def call(context: Any, function: Any, low: Any, high: Any, batch: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            function, low, high, batch = arguments
            return builder.call(builder.inttoptr(function, kind), [low, high, batch])

        return types.intp(*[types.intp] * 4), code

    return call


@cache
def _address_to_pointer() -> Any:
    """Return the intrinsic that makes a pointer of an address, so that one integer carries all of a batch's arrays.

    Unpacking 15 array arguments costs numba about 1 us a call; this costs 0.2 us.
    """
    from numba import types
    from numba.core import cgutils
    from numba.extending import intrinsic

    @intrinsic  # type: ignore[untyped-decorator]
    def address_to_pointer(context: Any, address: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], cgutils.voidptr_t)

        return types.voidptr(types.intp), code

    return address_to_pointer


def plain_view(arrays: tuple[Any, ...]) -> layout.View:
    """Return the batch's arrays as `plain_loops` wants them: records and rows that read as Python numbers."""
    return layout.View(*(record.PlainArray(a) if isinstance(a, np.ndarray) else a for a in arrays))
