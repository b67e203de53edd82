"""The engine: N copies of a world stepped by compiled loops over arrays that do not move."""

from __future__ import annotations

import os
import sys
import time
from functools import cache, partial
from typing import Any

import numpy as np
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode

from . import columns, compiler, layout
from .pace import Pace
from .rng import STREAM_SHIFT
from .world import Array, World

MODES = {
    AutoresetMode.SAME_STEP: layout.SAME_STEP,
    AutoresetMode.NEXT_STEP: layout.NEXT_STEP,
    AutoresetMode.DISABLED: layout.DISABLED,
}
ILLEGAL = {"refuse": layout.REFUSE, "forfeit": layout.FORFEIT, "noop": layout.NOOP}
STREAMS = 2**24  # of a seed: see rng.STREAM_SHIFT
SEEDS = 2**32  # a seed is the generator's 32-bit key; evaluate.py says who uses which
_LONG = 200  # steps of plain Python, in search of what made compiled code raise an exception
_FIELDS = {layout.BAD_REWARD: "reward", layout.BAD_OBSERVATION: "observation"}


class NonFiniteError(ArithmeticError):
    """NaN or infinity where a number belongs; the message names world index, step and field."""


class Batch:
    """N worlds x A agents, owned as contiguous arrays that never move (but `observations`, where `step_anew` is used).

    actions             int64 [N, A], or float32 [N, A, k]     written by the caller
    observations        [N, A, *shape] of the space's dtype    valid after reset and step
    rewards             float32 [N, A]
    terminated, truncated   bool [N]     both can hold at once, as in Gymnasium's TimeLimit
    final_observations  as observations; a row is valid where its world ended in this step (same-step mode)
    episode_returns     float64 [N, A], episode_lengths int32 [N]: of the last finished episode
    log_totals          float64 [N, 1 + K]: finished episodes, and the K log fields summed over them
    ended               bool [N]: worlds whose episode ended in this step or, where they do not reset, earlier
    legal               uint8 [N, A, actions]: what each may do next, where the world is `masked`; else 0
    active              bool [N, A]: who acts in the next step; the actions of others are not looked at
    departed            bool [N, A]: who left its episode in this step, while it may go on for others
    fouls               bool [N, A]: whose action was illegal in this step, with `illegal` "forfeit" or "noop"
    held                bool [N]: worlds of several agents that the next step passes over, written by the caller

    `illegal` says what becomes of an illegal action: "refuse" raises before anything moves; "forfeit" ends the episode,
    at the price of the world's `forfeit`; with "noop" nothing happens, in a turn-based world, and the mover has to move
    again; elsewhere the agent's first legal action is taken.

    Args: `seed` in 0..2**32-1; world i draws from stream `first + i` of it, so a batch equals any split of it.
    `threads`: None picks serial or threaded loops by measuring; 1 is serial; k > 1 threads. `params`: one record or N.
    Raises ValueError for arguments out of range, NonFiniteError from `step` and `reset`, WorldError for a mistake in
    the world's file.
    """

    exact = True  # restore continues bit for bit

    def __init__(
        self,
        world: World,
        n: int,
        params: Array | None = None,
        *,
        seed: int = 0,
        first: int = 0,
        threads: int | None = None,
        autoreset: AutoresetMode = AutoresetMode.SAME_STEP,
        plain: bool = False,
        illegal: str = "refuse",
    ) -> None:
        params = world.Params() if params is None else np.atleast_1d(params)
        if not 0 < n < STREAMS:
            raise ValueError(f"worlds={n}: expected 1 to {STREAMS - 1}")
        if params.dtype != world.Params.dtype or params.shape not in ((1,), (n,)):
            raise ValueError(f"params: expected 1 or {n} records of {world.name}'s Params, got shape {params.shape}")
        world.Params.check(params)
        if illegal not in ILLEGAL:
            raise ValueError(f"illegal={illegal!r}: expected one of {', '.join(ILLEGAL)}")
        _check_memory(world, n)
        self.world, self.n, self.plain, self.autoreset = world, n, plain, autoreset
        agents, shape = len(world.agents), world.observation.shape
        # Loops that step a block of worlds at a time step all of the last one: there is room for it.
        self._room = room = columns.room(world, n)
        self.states = world.State.zeros(room)[:n]
        self.params = world.Params.zeros(1 if len(params) == 1 else room)[: len(params)]
        self.params[...] = params
        self.actions = np.zeros((room, agents, *world.action_shape), world.action_dtype)[:n]
        self.observations = np.zeros((room, agents, *shape), world.observation.dtype)[:n]
        self.rewards = np.zeros((room, agents), np.float32)[:n]
        self.terminated, self.truncated, self.ended = (np.zeros(room, np.bool_)[:n] for _ in range(3))
        self.final_observations = np.zeros((n, agents, *shape), world.observation.dtype)
        self.running_returns = np.zeros((room, agents))[:n]
        self.episode_returns = np.zeros((n, agents))
        self.episode_lengths = np.zeros(n, np.int32)
        self.log_totals = np.zeros((n, 1 + len(world.log_names)))
        self.legal = np.zeros((n, agents, world.mask_size), np.uint8)
        self.active = np.ones((n, agents), np.bool_)
        self.departed, self.fouls = (np.zeros((n, agents), np.bool_) for _ in range(2))
        self.held = np.zeros(n, np.bool_)
        self.illegal = illegal
        self.threads = os.cpu_count() or 1 if threads is None else threads
        if self.threads < 1:
            raise ValueError(f"threads={threads}: expected at least 1")
        self._lay_out()
        self._pace = Pace() if threads is None and self.threads > 1 and not plain else None
        self._threaded = threads is not None and threads > 1 and not plain
        self._broken, self._broken_world, self._calls = "", 0, 0
        self._all = np.ones(n, np.uint8)
        self._pending_keys, self._pending_counters = np.zeros(n, np.uint64), np.zeros(n, np.uint64)
        self._reseed = np.zeros(n, np.bool_)
        self.seed(seed, first)

    def _lay_out(self) -> None:
        owned: tuple[Array, ...] = (self.states, self.params, self.actions, self.observations)
        owned += (self.rewards, self.terminated, self.truncated, self.ended, self.final_observations)
        owned += (self.running_returns, self.episode_returns, self.episode_lengths, self.log_totals)
        owned += (self.legal, self.active, self.departed, self.fouls, self.held)
        header = np.zeros(layout.HEADER_SIZE, np.int64)
        header[layout.N] = self.n
        header[layout.MODE], header[layout.HORIZON] = MODES[self.autoreset], self.world.horizon
        header[layout.N_PARAMS], header[layout.ILLEGAL] = len(self.params), ILLEGAL[self.illegal]
        header[layout.GRAIN] = columns.LANES if columns.plan(self.world) else 1
        header[layout.FIRST_POINTER : layout.FIRST_POINTER + len(owned)] = [a.ctypes.data for a in owned]
        self._header, self._address = header, header.ctypes.data
        self._outcomes = np.zeros(self.threads, np.int64)
        self._loops = compiler.plain_loops(self.world) if self.plain else compiler.loops(self.world)
        self._step_serial: Any = None  # until the world's step is compiled, by who wants it first
        self._handle: Any = self._address
        if self.plain:
            flat, final = (
                a.reshape(self.n, len(self.world.agents), -1) for a in (self.observations, self.final_observations)
            )
            words = self.states.view(np.float64).reshape(self.n, -1)
            settings = (int(header[layout.MODE]), self.world.horizon, ILLEGAL[self.illegal])
            arrays = (self.states, words, *owned[1:4], flat, *owned[4:8], final, *owned[9:])
            self._handle = compiler.plain_view((*settings, *arrays))

    def seed(self, seed: int | Array, first: int = 0, mask: Array | None = None) -> None:
        """Give world i stream `first + i` of a seed, or stream 0 of its own of int [N]; takes hold at reset.

        `mask`, bool [N]: of these worlds only.
        """
        seeds = np.asarray(seed)
        if seeds.dtype.kind not in "iu" or seeds.shape not in ((), (self.n,)) or np.any((seeds < 0) | (seeds >= SEEDS)):
            raise ValueError(f"seed={seed!r}: expected an integer in 0..2**32-1, or {self.n} of them")
        if not 0 <= first <= STREAMS - self.n:
            raise ValueError(f"first={first}: expected 0 to {STREAMS - self.n} for {self.n} worlds")
        streams = np.arange(first, first + self.n, dtype=np.uint64) if seeds.ndim == 0 else np.zeros(self.n, np.uint64)
        wanted = np.ones(self.n, np.bool_) if mask is None else np.asarray(mask, np.bool_)
        self._pending_keys[wanted] = np.broadcast_to(seeds, self.n)[wanted]
        self._pending_counters[wanted] = (streams << STREAM_SHIFT)[wanted]
        self._reseed |= wanted

    def reset(self, mask: Array | None = None) -> Array:
        """Begin a new episode in every world, or where mask bool [N] says so; returns `observations`."""
        wanted = self._all if mask is None else np.asarray(mask, np.bool_).astype(np.uint8)
        if wanted.shape != (self.n,):
            raise ValueError(f"mask of shape {wanted.shape}: expected ({self.n},)")
        fresh = self._reseed & wanted.astype(np.bool_)
        self.states["rng_key"][fresh] = self._pending_keys[fresh]
        self.states["rng_counter"][fresh] = self._pending_counters[fresh]
        self._reseed &= ~fresh
        if wanted[self._broken_world]:
            self._broken = ""
        self._run_reset(wanted)
        return self.observations

    def _run_reset(self, mask: Array) -> None:
        with np.errstate(all="ignore"):  # compiled code is silent about infinities, too
            try:
                outcome = self._loops.reset_masked(self._handle, mask)
            except Exception as error:
                self._explain(error)
                raise
        if outcome < 0:
            self.fail(outcome)

    def step(self) -> int:
        """Step every world with the actions in `actions`; return how many episodes ended.

        Raises ValueError, before anything moves, for an action outside the space; NonFiniteError as documented.
        """
        if self._broken:
            raise NonFiniteError(f"{self._broken}; call reset() first")
        if self.plain:
            outcome = self._step_plain()
        else:
            if self._step_serial is None:
                self._ready()
            if self._threaded:
                outcome = self._step_threaded()
            elif self._pace is not None:
                outcome = self._step_at_pace(self._pace)
            else:
                outcome = self._step_serial(self._address)
        if outcome < 0:
            self.fail(outcome)
        return int(outcome)

    def _explain(self, error: Exception) -> None:
        """Raise WorldError instead of what numba says of a kernel that it cannot compile."""
        from . import mistakes

        mistake = None if self.plain else mistakes.of_compiling(self.world, error, self._play)
        if mistake is not None:
            raise mistake from error

    def _play(self, steps: int = 1) -> None:
        batch = Batch(self.world, 2, plain=True)
        batch.reset()
        for _ in range(steps):
            batch.random_actions()
            batch.step()

    def step_anew(self) -> int:
        """Do what `step` does, with `observations` in new memory: who has the old array keeps it, nothing is copied.

        Raises as `step` does, and ValueError where worlds stay ended: their rows would not be written again.
        """
        if self.autoreset == AutoresetMode.DISABLED:
            raise ValueError("step_anew: this batch does not reset by itself")
        before = self.observations
        self.renew()
        try:
            ended = self.step()
        except (ValueError, NonFiniteError):  # nothing has moved, or worlds must be reset
            self._show_in(before)
            raise
        if self.held.any():  # they show what they showed
            self.observations[self.held] = before[self.held]
        return ended

    def renew(self) -> None:
        """Give `observations` new memory, which a step, a reset or `observe` is to fill."""
        shape, dtype = self.observations.shape[1:], self.observations.dtype
        self._show_in(np.empty((self._room, *shape), dtype)[: self.n])

    def _show_in(self, observations: Array) -> None:
        if self.plain:
            raise ValueError("plain loops hold on to their arrays")
        self.observations = observations
        self._header[layout.FIRST_POINTER + 3] = observations.__array_interface__["data"][0]

    def _step_threaded(self) -> int:
        import numba

        _wake_threads()
        wanted = min(self.threads, numba.config.NUMBA_NUM_THREADS)
        if numba.get_num_threads() != wanted:  # asking is quicker than setting
            numba.set_num_threads(wanted)
        return int(compiler.stepping().step_parallel(self._address, self._outcomes))

    def _step_plain(self) -> int:
        loops, view = self._loops, self._handle
        with np.errstate(all="ignore"):
            return int(loops.check_some(0, self.n, view) or loops.step_some(0, self.n, view))

    def _ready(self) -> None:
        try:
            self._header[[layout.CHECK, layout.STEP]] = compiler.step_addresses(self.world)
        except Exception as error:
            self._explain(error)
            raise
        self._step_serial = compiler.stepping().step_serial

    def _step_at_pace(self, pace: Pace) -> int:
        begin = time.perf_counter()
        outcome = self._step_threaded() if pace.threaded else int(self._step_serial(self._address))
        now = time.perf_counter()
        pace.tell(now, now - begin)
        if pace.settled:
            self._pace = None
        return outcome

    def entrance(self) -> int:
        """Return the address of the batch's header, for compiled callers.

        There, at CHECK and STEP, are addresses of `int64 f(low, high, header)`. The first checks the actions of worlds
        low..high-1; the second steps these, on the calling thread, if the first returned 0. A negative result is for
        `fail` to explain.
        """
        if self.plain:
            raise ValueError("plain loops have no address")
        if self._broken:
            raise NonFiniteError(f"{self._broken}; call reset() first")
        if self._step_serial is None:
            self._ready()
        return self._address

    def shares(self, most: int) -> Array:
        """Return where each of up to so many threads begins, int64 [threads + 1]: blocks of worlds stay together."""
        grain = int(self._header[layout.GRAIN])
        blocks = -(-self.n // grain)
        parts = min(most, blocks)
        return np.minimum(np.arange(parts + 1) * blocks // parts * grain, self.n)

    def fail(self, outcome: int) -> None:
        """Raise what a negative outcome of a step means: ValueError, NonFiniteError or WorldError."""
        world, fault = divmod(-outcome - 1, layout.FAULTS)
        t = self.states["t"][world]
        if fault == layout.BAD_ACTION:
            raise ValueError(self._bad_action(world))
        if fault == layout.RAISED:
            from . import mistakes

            raise mistakes.of_running(self.world, partial(self._play, _LONG))
        field = _FIELDS[fault]
        value = self.rewards[world] if field == "reward" else self.observations[world]
        shown = np.array2string(np.ravel(value)[:8], precision=4, separator=", ")
        self._broken_world = world
        self._broken = f"{self.world.name}: non-finite {field} in world {world} at step {t}: {shown}"
        raise NonFiniteError(self._broken)

    def _bad_action(self, world: int) -> str:
        w, t, lone = self.world, self.states["t"][world], len(self.world.agents) == 1
        for a, space in enumerate(w.action_spaces):
            given = self.actions[world, a]
            own = given[: space.shape[0]] if isinstance(space, Box) else given
            who = f"world {world}" if lone else f"{w.agents[a]} in world {world}"
            inside = space.contains(own) if isinstance(space, Box) else 0 <= given < space.n
            if self.active[world, a] and not inside:
                return f"{w.name}: action {own.tolist()} of {who} at step {t} is outside {space}"
            if self.active[world, a] and w.masked and not self.legal[world, a, given]:
                may = np.flatnonzero(self.legal[world, a]).tolist()
                return f"{w.name}: action {given} of {who} at step {t} is illegal; legal are {may}"
        return f"{w.name}: an action of world {world} at step {t} is outside its space"

    def scripted_actions(self, strength: str = "expert") -> Array:
        """Write the actions of the world's expert, or novice, into `actions` for everyone who acts; return `actions`.

        Raises ValueError where the world has none of this strength.
        """
        if strength not in ("expert", "novice"):
            raise ValueError(f"strength={strength!r}: expected expert or novice")
        if getattr(self.world, strength) is None:
            raise ValueError(f"{self.world.name} has no {strength}")
        getattr(self._loops, f"{strength}_actions")(self._handle)
        return self.actions

    def random_actions(self, seed: int = 0) -> Array:
        """Write uniformly random legal actions into `actions` for everyone who acts, and return `actions`.

        Each call draws anew; the numbers depend on the seed, the calls made before and the row, not on the worlds'.
        """
        self._loops.random_actions(self._handle, np.uint64(seed), np.uint64(self._calls << 36))
        self._calls += 1
        return self.actions

    def state(self, i: int) -> bytes:
        """Return world i's state, random stream included, as bytes."""
        return bytes(self.states[i].tobytes())

    def set_state(self, i: int, state: bytes) -> None:
        """Put world i into a state that `state` returned, and observe it. ValueError where the size is wrong.

        The episode's return so far is the batch's, not the state's: it goes on from where this world's was.
        """
        if len(state) != self.states.dtype.itemsize:
            raise ValueError(f"state of {len(state)} bytes: {self.world.name}'s has {self.states.dtype.itemsize}")
        given = np.frombuffer(state, self.states.dtype)
        self.world.State.check(given)
        self.states[i] = given[0]
        self.ended[i] = self.terminated[i] = self.truncated[i] = False
        self.departed[i] = self.fouls[i] = False
        self._reseed[i] = False
        self.observe(i)

    def observe(self, i: int | None = None) -> Array:
        """Recompute the observations of world i, or of all, after their states were written to from outside."""
        mask = np.full(self.n, 2 if i is None else 0, np.uint8)
        if i is not None:
            mask[i] = 2
        self._run_reset(mask)
        return self.observations

    def snapshot(self) -> dict[str, Array]:
        """Return copies of everything a batch needs to go on exactly as it is, as plain arrays by name."""
        return {name: np.array(array) for name, array in self._persistent().items()}

    def restore(self, snapshot: dict[str, Array]) -> None:
        """Go on from a `snapshot` of a batch of the same world and size. ValueError names what does not fit."""
        for name, array in self._persistent().items():
            given = snapshot.get(name)
            if given is None or given.dtype != array.dtype or given.shape != array.shape:
                raise ValueError(f"snapshot of another batch: {name} does not fit {self.world.name} x {self.n}")
        # A world indexes its boards by its state: the ranges it declares are checked before compiled code sees it.
        self.world.State.check(snapshot["states"].reshape(-1).view(self.states.dtype))
        self.world.Params.check(snapshot["params"].reshape(-1).view(self.params.dtype))
        for name, array in self._persistent().items():
            array[...] = snapshot[name]
        self._broken = ""

    def _persistent(self) -> dict[str, Array]:
        names = "observations rewards terminated truncated ended running_returns episode_returns episode_lengths"
        names += " log_totals legal active departed fouls"
        arrays = {name: getattr(self, name) for name in names.split()}
        return {
            **arrays,
            "states": self.states.view(np.uint8).reshape(self.n, -1),
            "params": self.params.view(np.uint8).reshape(len(self.params), -1),
            "reseed": self._reseed,
            "pending_keys": self._pending_keys,
            "pending_counters": self._pending_counters,
        }

    def drain_log(self) -> dict[str, float]:
        """Return the mean of each log field over the episodes finished since the last call, and zero the totals."""
        totals = self.log_totals.sum(axis=0)
        self.log_totals[:] = 0.0
        means = totals[1:] / max(totals[0], 1.0)
        return {"episodes": float(totals[0]), **dict(zip(self.world.log_names, means.tolist(), strict=True))}

    def close(self) -> None:
        """Nothing is held open; here because other batches have it."""


@cache
def _wake_threads() -> None:
    """Let numba make its threads, once, without telling torch's: both ask the same OpenMP how many there shall be."""
    import numba

    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else 0
    numba.get_num_threads()
    if torch:
        torch.set_num_threads(before)


def _check_memory(world: World, n: int) -> None:
    """Raise ValueError where n worlds do not fit into the machine: arrays are zeroed lazily, and fail much later."""
    agents, numbers = len(world.agents), int(np.prod(world.observation.shape))
    row = (
        2 * numbers * world.observation.low.dtype.itemsize + world.mask_size + 8 * int(np.prod(world.action_shape)) + 32
    )
    needed = n * (world.State.dtype.itemsize + agents * row)
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        raise ValueError(f"worlds={n}: {world.name} would need {needed / 2**30:.0f} GiB of {there / 2**30:.0f}")
