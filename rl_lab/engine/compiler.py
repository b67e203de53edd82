"""This module compiles a world's kernels into batch loops, and keeps the machine code on disk between processes.

`compiled_loops(world)` executes the files in templates/ as modules whose global names are the world's kernels and
constants. numba compiles their functions when they are first called, or loads the machine code.

numba's disk cache asks for a real source file and does not notice edits in other files. So the last template is copied
into a folder of the user's cache that is named by a fingerprint: a hash of everything that goes into the machine code.
A second process finds the same folder. An edited world gets another one, and the least recently used folders are
removed.

It writes to the cache folder (see `cache_folder`), to sys.modules, and to two dictionaries of this module.
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
from types import ModuleType
from typing import TYPE_CHECKING, Any

from rl_lab.core import kernel as kernels
from rl_lab.core.errors import WorkFailed
from rl_lab.engine import buffers, code_cache, numba_environment, vectorization, world_context
from rl_lab.engine.compile_pause import pause_collector_while_compiling
from rl_lab.engine.intrinsics import indirect_call as indirect_call
from rl_lab.engine.template_context import Decorators, F, WorldContext, executed_in

if TYPE_CHECKING:
    from rl_lab.core.world import World

_STEP, _SIMD_STEP = "engine/templates/step", "engine/templates/simd_step"
_IMPORTED_BY_STEP = ("engine/templates/actions", "engine/templates/autoreset")
# Modules whose text is part of the fingerprint: of every template, and of templates executed for a world.
_SHARED_SOURCES = (
    *("engine/compiler", "engine/intrinsics", "engine/template_context"),
    *("core/kernel", "core/endless_loops"),
)
_WORLD_SOURCES = (
    *("engine/world_context", "engine/vectorization", "engine/soa_intrinsics"),
    *("engine/batch_view", "core/rng"),
)
MAX_CACHED_VERSIONS = 4  # of one world: several checkouts may share the cache
_JIT_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
# For functions that compiled code alone calls: without the wrappers that Python and C would call.
_INTERNAL_OPTIONS = {**_JIT_OPTIONS, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
_FASTMATH_FLAGS = {"reassoc", "contract", "nsz", "arcp"}  # sums in any order, but NaN and infinity stay what they are
_specialized: dict[tuple[Any, ...], ModuleType] = {}  # modules by everything that they are made of
functions_called_by_address: list[Any] = []  # numba would free them, because nothing else refers to them


class CompilerError(WorkFailed, RuntimeError):
    """Compiling or loading machine code failed, and nothing in the world's file is known to be the reason."""


def cache_folder() -> Path:
    """Return the folder for compiled code: the user's cache, or a temporary folder where that is read-only."""
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


@cache
def compiled_loops(world: World) -> ModuleType:
    """Return the functions of `templates/step.py` for this world, each compiled or loaded at its first call."""
    simd = (_SIMD_STEP,) if vectorization.vectorization_plan(world) else ()
    return specialize(world, world.name, (*_IMPORTED_BY_STEP, *simd, _STEP), world_context.KERNEL_NAMES)


def specialize(
    world: World, name: str, templates: tuple[str, ...], keys: tuple[str, ...], sources: tuple[str, ...] = ()
) -> ModuleType:
    """Return the last of these templates, executed for a world with those of its kernels that `keys` names.

    Args:
        world: the world; copies of it with another horizon share one module.
        name: the beginning of the name of the folder in which the machine code is kept.
        templates: paths in rl_lab, without suffix; a template comes after those that it imports.
        keys: World's keywords for the kernels, such as "step".
        sources: modules that the templates import, with code or constants that they compile; paths as for `templates`.

    Functions of the module are compiled or loaded at their first call.
    """
    numba_environment.check()
    dependencies = world_context.dependencies(world, keys)
    author_kernels = tuple(getattr(world, key) for key in keys)  # errors name their files and lines
    fingerprint = kernels.fingerprint(*dependencies, with_modules=False)
    key = (name, templates, sources, cache_folder(), author_kernels, fingerprint)
    if key not in _specialized:
        texts = [template_path(source).read_text() for source in (*_WORLD_SOURCES, *sources)]
        context = world_context.compiled_context(world, inline_decorator(), keys, _kernel_module(fingerprint))
        paths = tuple(map(template_path, templates))
        _specialized[key] = instantiate_templates(name, paths, buffers, *texts, *dependencies, world=context)
    return _specialized[key]


def _kernel_module(fingerprint: str) -> str:
    """Return the name of an empty module for compiled kernels.

    It follows from what the kernels are and not from where their file lies, so that machine code is found again after
    the file was moved, or edited in lines that are not compiled.
    """
    name = f"rl_lab_kernels.{fingerprint}"
    sys.modules.setdefault(name, ModuleType(name))
    return name


@cache
def step_addresses(loops: ModuleType) -> tuple[int, int]:
    """Return the addresses of `check_range` and `step_range` of a world's loops."""
    return address(loops.check_range), address(loops.step_range)


@cache
def dispatch() -> ModuleType:
    """Return the functions of `templates/dispatch.py`."""
    return instantiate_templates(
        "dispatch", (template_path("engine/templates/dispatch"),), template_path("engine/buffers").read_text()
    )


def address(function: Any) -> int:
    """Return the address of the machine code of a function int64 f(int64, int64, int64) of an assembled module."""
    from numba import types

    return address_with_signature(function, types.intp(types.intp, types.intp, types.intp))


def address_with_signature(function: Any, signature: Any) -> int:
    """Return the address of the machine code of a function of an assembled module, compiled for a numba signature."""
    from numba.core.ccallback import CFunc
    from numba.core.sigutils import normalize_signature

    # What numba.cfunc does, with a cache that tolerates damaged files.
    cfunc: Any = CFunc(function, normalize_signature(signature), locals={}, options={"error_model": "numpy"})
    cfunc.enable_caching()
    code_cache.drop_damaged_files(cfunc._cache)
    cfunc.compile()
    functions_called_by_address.append(cfunc)
    return int(cfunc.address)


def instantiate_templates(
    name: str,
    templates: tuple[Path, ...],
    *parts: Any,
    world: WorldContext | None = None,
) -> ModuleType:
    """Return the last of these files, executed as a module in the context of a world or of none.

    The files come in an order in which each imports only earlier ones; it gets the modules that were executed for the
    same world (see `template_context`). Functions marked `jit` are compiled or loaded at their first call, from a
    folder whose name is `name` and a fingerprint of the files and of `parts`, which are whatever else the machine code
    depends on.
    """
    import numba

    numba_environment.check()
    texts = [template.read_text() for template in (*templates, *map(template_path, _SHARED_SOURCES))]
    full_name = f"{name}-" + kernels.fingerprint(numba.__version__, *texts, *parts, with_modules=False)
    source = templates[-1]
    folder = cache_folder() / full_name
    _copy_template(source, folder / source.name)
    os.utime(folder)  # the most recently used versions are kept
    _remove_old_versions(folder.parent, name)

    decorators = _decorators()
    importable: dict[str, ModuleType] = {}  # by the name that later templates import it by
    for template in templates[:-1]:
        module = _execute_template(template, f"rl_lab_{template.stem}.{full_name}", decorators, world, importable)
        importable[_module_name(template)] = module
    return _execute_template(folder / source.name, f"rl_lab_compiled.{full_name}", decorators, world, importable)


def _decorators() -> Decorators:
    import numba

    return Decorators(
        inline=inline_decorator(),
        internal=numba.njit(**_INTERNAL_OPTIONS),
        fastmath=numba.njit(fastmath=_FASTMATH_FLAGS, **_INTERNAL_OPTIONS),
        jit=_disk_cached(no_cfunc_wrapper=True, **_JIT_OPTIONS),
        parallel_jit=_disk_cached(parallel=True, **_JIT_OPTIONS),
        recursive_jit=numba.njit(**_JIT_OPTIONS),
    )


def _disk_cached(**options: Any) -> Callable[[Any], Any]:
    """Return the decorator that compiles a function at its first call and keeps its machine code on disk."""
    import numba

    pause_collector_while_compiling()

    def jit(function: Any) -> Any:
        compiled = numba.njit(cache=True, **options)(function)
        code_cache.drop_damaged_files(compiled._cache)
        return compiled

    return jit


def inline_decorator() -> Any:
    """Return the decorator that compiles a function into its callers."""
    import numba

    return partial(numba.njit, forceinline=True, **_INTERNAL_OPTIONS)


@cache
def plain_loops(world: World) -> ModuleType:
    """Return the same loops over the author's own functions, for a debugger; pass them plain views of the arrays."""

    def unchanged(function: F) -> F:
        return function

    decorators, context = Decorators(*[unchanged] * 6), world_context.plain_context(world)
    importable: dict[str, ModuleType] = {}
    for template in map(template_path, _IMPORTED_BY_STEP):
        module = _execute_template(template, f"rl_lab_plain_{template.stem}.{world.name}", decorators, context, {})
        importable[_module_name(template)] = module
    return _execute_template(template_path(_STEP), f"rl_lab_plain.{world.name}", decorators, context, importable)


def template_path(name: str) -> Path:
    """Return the file of a module, named by its path in rl_lab without suffix."""
    return Path(__file__).parents[1] / f"{name}.py"


def _module_name(template: Path) -> str:
    """Return the name that other templates import a template by."""
    root = Path(__file__).parents[2]
    return (
        ".".join(template.relative_to(root).with_suffix("").parts) if template.is_relative_to(root) else template.stem
    )


def _copy_template(source: Path, target: Path) -> None:
    """Copy a template to `target`, so that numba finds a source file there; do nothing if it is there already."""
    content = source.read_bytes()
    if target.is_file():
        if target.read_bytes() == content:
            return
        code_cache.remove_compiled_files(target.parent / "__pycache__")  # damaged, and so may be what was made of it
    target.parent.mkdir(exist_ok=True)
    partial_file = target.with_name(f".{os.getpid()}-{threading.get_ident()}.tmp")
    partial_file.write_bytes(content)
    # numba stamps its cache with the source's time: all processes must see one and the same file.
    os.utime(partial_file, (1, 1))
    partial_file.replace(target)


def _remove_old_versions(folder: Path, name: str) -> None:
    """Remove all but the most recently used folders of compiled code whose names begin with `name`."""
    versions = [
        path for path in folder.glob(f"{name}-*") if len(path.name) == len(name) + 21
    ]  # a fingerprint is 20 digits
    for old in sorted(versions, key=lambda path: path.stat().st_mtime)[:-MAX_CACHED_VERSIONS]:
        shutil.rmtree(old, ignore_errors=True)


def _execute_template(
    path: Path,
    name: str,
    decorators: Decorators,
    world: WorldContext | None,
    importable: dict[str, ModuleType],
) -> ModuleType:
    """Execute a template as the module `name`, and return it; later templates import what is in `importable`."""
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"cannot load {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # numba finds a cached function's module by name
    with executed_in(name, decorators, world, importable):
        try:
            spec.loader.exec_module(module)
        except (EOFError, ValueError, TypeError):  # Python's own compiled file is damaged, and Python does not look
            Path(spec.cached or "").unlink(missing_ok=True)
            spec.loader.exec_module(module)
    return module
