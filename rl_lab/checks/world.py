"""This module has properties of `rl-lab check` for the engine: a seed determines an episode, however it is stepped.

`suite` calls each of the functions that take only a `WorldUnderTest`. It returns the findings, one line for each
mistake, or raises Skip where the property does not apply. The functions step new batches;
`same_in_another_process` also starts a process, which steps a batch and prints hashes.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import astuple, replace
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import numpy as np

from rl_lab.checks.subject import Skip, WorldUnderTest
from rl_lab.core.kernel import source_location
from rl_lab.core.random_actions import write_uniform_actions
from rl_lab.core.world import Array, World, with_loop_limit
from rl_lab.engine.batch import Batch
from rl_lab.engine.compiler import plain_loops
from rl_lab.engine.diagnostics import author_location, authored_files

_OBSERVING_WRITES = "observe or action_mask changes the state; only reset, step and scripts may"
_OUTPUTS = ("observations", "rewards", "terminated", "truncated", "action_mask", "acting", "left_episode")  # of a batch


def indices_stay_in_range(subject: WorldUnderTest) -> list[str]:
    """Run every kernel in plain Python with arrays that raise for an index which compiled code does not check."""
    world = subject.short_world
    batch = subject.batch(2, bounds_checked=True)
    for t in subject.write_actions(batch, subject.budget.plain_steps):
        if world.novice and t % 2:  # runs the novice kernel for its indices; its actions are not used
            actions = batch.actions.copy()
            batch.scripted_actions("novice")
            batch.actions[...] = actions
        try:
            batch.step()
        except TypeError as error:
            if "unpack" in str(error) and not author_location(error, authored_files(world)):
                return [f"{source_location(world.step)}: does not return (reward, terminated) on every path"]
            raise
    return []


def compiled_equals_plain(subject: WorldUnderTest) -> list[str]:
    """Compare every array of a plain and a compiled batch after every step."""
    if subject.plain:
        raise Skip("plain Python only")
    plain, compiled = (subject.batch(2, plain=plain) for plain in (True, False))
    steps = subject.budget.plain_steps
    compiled.native_handle()  # compiles before the time limit of plain Python starts
    for t, _ in zip(subject.write_actions(plain, steps), subject.write_actions(compiled, steps), strict=False):
        if difference := _first_difference(plain, compiled):
            advice = "an f4 on one branch and a float on the other rounds differently: give both the same type"
            return [f"step {t}: {difference}; {advice}"]
        plain.step()
        compiled.step()
    return []


def _first_difference(plain: Batch, compiled: Batch) -> str:
    """Return the first field of State, or array of the batch, that differs, with its values; "" if none does."""
    if plain.states.tobytes() != compiled.states.tobytes():
        for name in plain.states.dtype.names or ():
            a, b = plain.states[name], compiled.states[name]
            if a.tobytes() != b.tobytes():
                return f"State.{name} is {_first_differing(a, b)} in plain Python and {_first_differing(b, a)} compiled"
    for name in _OUTPUTS:
        a, b = getattr(plain, name), getattr(compiled, name)
        if a.tobytes() != b.tobytes():
            return f"{name} holds {_first_differing(a, b)} in plain Python and {_first_differing(b, a)} compiled"
    return ""


def _first_differing(a: Array, b: Array) -> Any:
    """Return the first number of a that differs from b's, or "?" for records."""
    flat, other = np.atleast_1d(a).ravel(), np.atleast_1d(b).ravel()
    return flat[np.flatnonzero(flat != other)[0]].item() if flat.dtype.names is None and (flat != other).any() else "?"


def states_can_be_saved(subject: WorldUnderTest) -> list[str]:
    """Copy every state to another batch: it must be in the ranges of its fields, and continue in the same way."""
    source, copy = subject.batch(1, no_autoreset=True), subject.batch(1, no_autoreset=True, seed=subject.seed + 1)
    for t in subject.write_actions(source, first=1):
        try:
            copy.set_state(0, source.state(0))
        except ValueError as error:
            return [f"step {t}: State.{error}, says its bounded(...): such a state cannot be saved, or searched from"]
        copy.actions[...] = source.actions
        same_outputs = _outputs(source, 0) == _outputs(copy, 0)
        source.step()
        copy.step()
        same_rewards = copy.rewards.tobytes() == source.rewards.tobytes()
        if not same_outputs or copy.state(0) != source.state(0) or not same_rewards:
            return [f"step {t}: a copy of the state in another batch does not continue in the same way"]
    return []


def _outputs(batch: Batch, i: int) -> bytes:
    """Return the bytes of what environment i shows before a step."""
    return b"".join(getattr(batch, name)[i].tobytes() for name in ("observations", "action_mask", "acting"))


def digests(subject: WorldUnderTest, n: int, *, first: int = 0, states: bool = True, **arguments: Any) -> list[str]:
    """Return a hash for each of n environments of its outputs in `budget.steps` steps, with or without its states.

    `first` is the number of environment 0, on which its seed and its actions depend; `arguments` are those of `Batch`.
    """
    batch = subject.batch(n, first=first, **arguments)
    hashes = [hashlib.sha256() for _ in range(n)]
    outputs = [getattr(batch, name) for name in _OUTPUTS]
    for _ in subject.write_actions(batch, first=first):
        batch.step()
        for i, digest in enumerate(hashes):
            for array in outputs:
                digest.update(array[i].tobytes())
            if states:
                digest.update(batch.state(i))
    return [digest.hexdigest() for digest in hashes]


def _differing_worlds(one: list[str], other: list[str], what: str) -> list[str]:
    """Return a finding for each environment whose two hashes differ; `what` is said of the second one."""
    return [f"{what}: world {i} plays another episode" for i, a in enumerate(one) if a != other[i]]


def same_seed_same_episodes(subject: WorldUnderTest) -> list[str]:
    """Compare two runs with the same seed."""
    n = subject.budget.num_envs
    return _differing_worlds(digests(subject, n), digests(subject, n), "the second time")


def same_in_every_slot(subject: WorldUnderTest) -> list[str]:
    """Compare the second and third environment of a batch with a batch of one that has their seed and actions."""
    batch, single = subject.batch(3), subject.batch(1)
    batch.seed(np.array([subject.seed + 1, subject.seed, subject.seed]))
    batch.reset()
    for t, uniforms in enumerate(np.random.default_rng(0).random((subject.budget.steps, *single.actions.shape))):
        write_uniform_actions(batch, uniforms.repeat(3, axis=0))
        write_uniform_actions(single, uniforms)
        batch.step()
        single.step()
        for i in (1, 2):
            if batch.state(i) != single.state(0) or _outputs(batch, i) != _outputs(single, 0):
                return [f"step {t}: world {i} of a batch plays another episode than a world alone with its seed"]
    return []


def same_in_any_split(subject: WorldUnderTest) -> list[str]:
    """Compare a batch with two batches, of one environment and of the rest."""
    n = subject.budget.num_envs
    parts = digests(subject, 1) + digests(subject, n - 1, first=1)
    return _differing_worlds(digests(subject, n), parts, f"split into 1 and {n - 1}")


def same_on_two_threads(subject: WorldUnderTest) -> list[str]:
    """Compare runs on one and on two threads."""
    if subject.plain:
        raise Skip("plain Python has one thread")
    n = subject.budget.num_envs
    return _differing_worlds(digests(subject, n), digests(subject, n, threads=2), "on 2 threads")


def same_in_another_process(subject: WorldUnderTest) -> list[str]:
    """Compare with a run in a new process, in which string hashes and addresses differ."""
    if (name := importable(subject.world)) is None:
        raise Skip("the world is not a variable of its module, so another process cannot import it")
    return _differing_worlds(
        digests(subject, subject.budget.num_envs), digests_in_subprocess([name], subject)[name], "in another process"
    )


_DIGEST_PROGRAM = """if True:
    import json, sys
    from rl_lab.checks.subject import CheckBudget, WorldUnderTest
    from rl_lab.core.imports import load
    from rl_lab.checks.world import digests
    names, budget, plain = json.loads(sys.argv[1])
    result = {}
    for name in names:
        subject = WorldUnderTest(load(name), CheckBudget(*budget), plain)
        result[name] = digests(subject, subject.budget.num_envs)
    print(json.dumps(result))
"""


def importable(world: World) -> str | None:
    """Return "module:variable" of a world, or "file.py:variable" where its module was loaded from a file; or None."""
    module = world.step.__module__
    names = [name for name, value in vars(sys.modules[module]).items() if value is world]
    file = Path(str(getattr(sys.modules[module], "__file__", ""))).resolve()
    spec = PathFinder.find_spec(module) if "." not in module else sys.modules[module].__spec__
    if spec is None or spec.origin is None or Path(spec.origin).resolve() != file:
        module = str(file)  # it was loaded from a file outside of the import path
    return f"{module}:{names[0]}" if names else None


def digests_in_subprocess(names: list[str], subject: WorldUnderTest) -> dict[str, list[str]]:
    """Return the digests of worlds, named "module:variable", from one new process.

    Raises RuntimeError, with the last line of its output, where that process fails.
    """
    arguments = json.dumps([names, astuple(subject.budget), subject.plain])
    hash_seed = os.environ.get("PYTHONHASHSEED")
    other_hash_seed = str(1 + int(hash_seed) % 1000) if hash_seed else "1"  # so that strings have other hashes there
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    environment["PYTHONHASHSEED"] = other_hash_seed
    process = subprocess.run(
        [sys.executable, "-P", "-c", _DIGEST_PROGRAM, arguments], env=environment, capture_output=True, text=True
    )
    if process.returncode:
        last_line = (process.stderr.strip().splitlines() or ["it printed nothing, as when machine code crashes"])[-1]
        raise RuntimeError(f"another process failed with status {process.returncode}: {last_line}")
    result: dict[str, list[str]] = json.loads(process.stdout.splitlines()[-1])
    return result


def seeds_differ(subject: WorldUnderTest) -> list[str]:
    """Compare runs with different seeds and the same actions."""
    batch = subject.batch()
    if (batch.states["rng_key"] != subject.seed).any():
        return [
            "reset changes State.rng_key: every seed would give the same episodes; leave the stream to rl_lab.core.rng"
        ]
    streams = np.arange(batch.num_envs, dtype=np.uint64)
    is_random = False
    for _ in subject.write_actions(batch):
        batch.step()
        # Environment i begins at counter i * 2**40.
        counts = batch.states["rng_counter"] - (streams << np.uint64(40))
        if (counts >= 2**40).any():
            return ["step or reset set State.rng_counter back: leave the stream to rl_lab.core.rng"]
        is_random = is_random or bool(counts.any())
    if not is_random:
        raise Skip("it draws no random numbers")
    runs = [digests(subject, subject.budget.num_envs, states=False, seed=seed) for seed in range(4)]
    if all(other == runs[0] for other in runs[1:]):
        return ["it draws random numbers, but four seeds show the same episodes, scripts included"]
    return []


def observing_changes_nothing(subject: WorldUnderTest) -> list[str]:
    """Compare each state before and after it is observed; observe it again, and compare the outputs.

    Plain Python shows the first observation of a state, and compiled code a second one: a kernel that writes the same
    number each time changes nothing the second time.
    """
    if finding := _change_by_first_observation(subject):
        return [finding]
    batch = subject.batch()
    for t in subject.write_actions(batch):
        for i in range(batch.num_envs):
            before = batch.state(i), _outputs(batch, i)
            batch.observe(i)
            if batch.state(i) != before[0]:
                return [f"step {t}: {_OBSERVING_WRITES}"]
            if _outputs(batch, i) != before[1]:
                return [f"step {t}: observing the same state again shows something else"]
        batch.step()
    return []


def _change_by_first_observation(subject: WorldUnderTest) -> str:
    """Return a finding if observe or action_mask changes a state that step or reset has just left, else ""."""
    world = with_loop_limit(replace(subject.short_world))  # a copy: its plain loops are changed
    loops, changed = vars(plain_loops(world)), False
    observe = loops["observe_env"]

    def observe_env(arrays: Any, i: int, live: bool) -> Any:
        nonlocal changed
        before = np.asarray(arrays.state_words[i]).tobytes()
        result = observe(arrays, i, live)
        changed = changed or np.asarray(arrays.state_words[i]).tobytes() != before
        return result

    loops["observe_env"] = observe_env
    batch = subject.batch(1, world=world, no_autoreset=True, plain=True)
    for t in subject.write_actions(batch, subject.budget.plain_steps):
        if changed:
            return f"step {t}: {_OBSERVING_WRITES}"
        batch.step()
    return ""
