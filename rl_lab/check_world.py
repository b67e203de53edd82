"""What `rl-lab check` tests of every world: its kernels index well, and one seed is one episode wherever it is played.

A function a property; it returns what is wrong, a line a finding.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from typing import Any

import numpy as np

from .chance import fill
from .check import Skip, Subject
from .engine import Batch
from .kernel import where
from .mistakes import authored_files, place_of
from .world import Array, World

_SHOWN = "observations rewards terminated truncated legal active departed"
_CLOSE = {"rtol": 1e-4, "atol": 1e-5}  # sums over agents in another order round differently


def indices_stay_in_range(subject: Subject) -> list[str]:
    """Play in plain Python with arrays that refuse what compiled code does in silence; every kernel runs."""
    world = subject.short
    batch = subject.batch(2, guarded=True)
    for t in subject.acts(batch, subject.effort.plain_steps):
        if world.novice and t % 2:
            chosen = batch.actions.copy()
            batch.scripted_actions("novice")
            batch.actions[...] = chosen
        try:
            batch.step()
        except TypeError as error:
            if "unpack" in str(error) and not place_of(error, authored_files(world)):
                return [f"{where(world.step)}: returns something else than (reward, terminated) on some way out"]
            raise
    return []


def compiled_equals_plain(subject: Subject) -> list[str]:
    """Compare every array of a plain and a compiled batch after every step."""
    if subject.plain:
        raise Skip("plain Python only")
    plain, compiled = (subject.batch(2, plain=plain) for plain in (True, False))
    steps = subject.effort.plain_steps
    for t, _ in zip(subject.acts(plain, steps), subject.acts(compiled, steps), strict=False):
        if differing := _differences(plain, compiled):
            advice = "an f4 on one branch and a float on the other rounds differently: give both the same type"
            return [f"step {t}: {differing[0]}; {advice}"]
        plain.step()
        compiled.step()
    return []


def _differences(one: Batch, other: Batch) -> list[str]:
    if one.states.tobytes() != other.states.tobytes():
        for name in one.states.dtype.names or ():
            a, b = one.states[name], other.states[name]
            if a.tobytes() != b.tobytes():
                return [f"State.{name} is {_first(a, b)} in plain Python and {_first(b, a)} compiled"]
    for name in _SHOWN.split():
        a, b = getattr(one, name), getattr(other, name)
        if a.tobytes() != b.tobytes():
            return [f"{name} holds {_first(a, b)} in plain Python and {_first(b, a)} compiled"]
    return []


def _first(a: Array, b: Array) -> Any:
    """The first number of a that is not b's."""
    flat, other = np.atleast_1d(a).ravel(), np.atleast_1d(b).ravel()
    return flat[np.flatnonzero(flat != other)[0]].item() if flat.dtype.names is None and (flat != other).any() else "?"


def states_can_be_kept(subject: Subject) -> list[str]:
    """Put every state elsewhere: it lies in the ranges its fields declare, and goes on as it would have."""
    here, there = subject.batch(1, disabled=True), subject.batch(1, disabled=True, seed=subject.seed + 1)
    for t in subject.acts(here, first=1):
        try:
            there.set_state(0, here.state(0))
        except ValueError as error:
            return [f"step {t}: State.{error}, says its bounded(...): such a state cannot be saved, or searched from"]
        there.actions[...] = here.actions
        before = _outputs(here, 0) == _outputs(there, 0)
        here.step()
        there.step()
        if not before or there.state(0) != here.state(0) or there.rewards.tobytes() != here.rewards.tobytes():
            return [f"step {t}: a state put elsewhere does not go on as it would have"]
    return []


def _outputs(batch: Batch, i: int) -> bytes:
    return b"".join(getattr(batch, name)[i].tobytes() for name in ("observations", "legal", "active"))


def digests(subject: Subject, n: int, *, first: int = 0, states: bool = True, **arguments: Any) -> list[str]:
    """Return a hash a world of all it shows in `effort.steps` steps, with its states or without; see `Subject.acts`."""
    batch = subject.batch(n, first=first, **arguments)
    hashes = [hashlib.sha256() for _ in range(n)]
    shown = [getattr(batch, name) for name in _SHOWN.split()]
    for _ in subject.acts(batch, first=first):
        batch.step()
        for i, digest in enumerate(hashes):
            for array in shown:
                digest.update(array[i].tobytes())
            if states:
                digest.update(batch.state(i))
    return [digest.hexdigest() for digest in hashes]


def _unequal(one: list[str], other: list[str], what: str) -> list[str]:
    return [f"{what}: world {i} plays another episode" for i, a in enumerate(one) if a != other[i]]


def same_seed_same_episodes(subject: Subject) -> list[str]:
    """Play twice."""
    n = subject.effort.worlds
    return _unequal(digests(subject, n), digests(subject, n), "the second time")


def same_in_every_slot(subject: Subject) -> list[str]:
    """Give the second and third world of a batch the seed of a batch of one, and the same chances."""
    batch, alone = subject.batch(3), subject.batch(1)
    batch.seed(np.array([subject.seed + 1, subject.seed, subject.seed]))
    batch.reset()
    for t, chance in enumerate(np.random.default_rng(0).random((subject.effort.steps, *alone.actions.shape))):
        fill(batch, chance.repeat(3, axis=0))
        fill(alone, chance)
        batch.step()
        alone.step()
        for i in (1, 2):
            if batch.state(i) != alone.state(0) or _outputs(batch, i) != _outputs(alone, 0):
                return [f"step {t}: world {i} of a batch plays another episode than a world alone with its seed"]
    return []


def same_however_split(subject: Subject) -> list[str]:
    """Play the worlds of a batch in batches of 1 and of the rest."""
    n = subject.effort.worlds
    parts = digests(subject, 1) + digests(subject, n - 1, first=1)
    return _unequal(digests(subject, n), parts, f"split into 1 and {n - 1}")


def same_on_two_threads(subject: Subject) -> list[str]:
    """Play on 1 and on 2 threads."""
    if subject.plain:
        raise Skip("plain Python has one thread")
    n = subject.effort.worlds
    return _unequal(digests(subject, n), digests(subject, n, threads=2), "on 2 threads")


def same_in_another_process(subject: Subject) -> list[str]:
    """Play in a new process, whose hashes and addresses are others."""
    if (name := importable(subject.world)) is None:
        raise Skip("the world is no variable of its module, so another process cannot import it")
    return _unequal(digests(subject, subject.effort.worlds), elsewhere([name], subject)[name], "in another process")


_ELSEWHERE = """if True:
    import importlib, json, sys
    from rl_lab.check import Effort, Subject
    from rl_lab.check_world import digests
    names, effort, plain = json.loads(sys.argv[1])
    result = {}
    for name in names:
        module, _, variable = name.partition(":")
        subject = Subject(getattr(importlib.import_module(module), variable), Effort(*effort), plain)
        result[name] = digests(subject, subject.effort.worlds)
    print(json.dumps(result))
"""


def importable(world: World) -> str | None:
    """Return "module:variable" of a world, or None."""
    module = world.step.__module__
    names = [name for name, value in vars(sys.modules[module]).items() if value is world]
    return f"{module}:{names[0]}" if names else None


def elsewhere(names: list[str], subject: Subject) -> dict[str, list[str]]:
    """Return the digests of worlds, "module:variable", played in one new process."""
    e = subject.effort
    given = json.dumps([names, [e.worlds, e.steps, e.plain_steps, e.states], subject.plain])
    other = str(1 + int(os.environ.get("PYTHONHASHSEED", "0")) % 1000) if os.environ.get("PYTHONHASHSEED") else "1"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONHASHSEED": other}
    done = subprocess.run([sys.executable, "-c", _ELSEWHERE, given], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"another process failed: {done.stderr.strip().splitlines()[-1]}")
    result: dict[str, list[str]] = json.loads(done.stdout.splitlines()[-1])
    return result


def seeds_differ(subject: Subject) -> list[str]:
    """Play the same actions from other seeds."""
    batch = subject.batch()
    if (batch.states["rng_key"] != subject.seed).any():
        return ["reset changes State.rng_key: every seed would give the same episodes; leave the stream to rl_lab.rng"]
    streams = np.arange(batch.n, dtype=np.uint64)
    drew = False
    for _ in subject.acts(batch):
        batch.step()
        drawn = batch.states["rng_counter"] - (streams << np.uint64(40))
        if (drawn >= 2**40).any():
            return ["step or reset set State.rng_counter back: leave the stream to rl_lab.rng"]
        drew = drew or bool(drawn.any())
    if not drew:
        raise Skip("it draws no random numbers")
    played = [digests(subject, subject.effort.worlds, states=False, seed=seed) for seed in range(4)]
    if all(other == played[0] for other in played[1:]):
        return ["it draws random numbers, but four seeds show the same episodes, scripts included"]
    return []


def observing_changes_nothing(subject: Subject) -> list[str]:
    """Observe every state twice."""
    batch = subject.batch()
    for t in subject.acts(batch):
        for i in range(batch.n):
            before = batch.state(i), _outputs(batch, i)
            batch.observe(i)
            if batch.state(i) != before[0]:
                return [f"step {t}: observe or legal changes the state; only reset, step and scripts may"]
            if _outputs(batch, i) != before[1]:
                return [f"step {t}: observing the same state again shows something else"]
        batch.step()
    return []
