"""This module has `Batch`, N copies of a world that compiled loops step: the engine's public class.

A Batch owns its arrays (see `buffers`), and a step writes into them in place. Its first step or reset compiles the
world's kernels, or loads their machine code from the user's cache folder (see `compiler`). Before their first compiled
use, the kernels of a new version of a world are examined: their source is checked, and they play as plain Python (see
`first_start`). Methods that only read and write arrays are in `batch_arrays`; errors are explained in `batch_faults`.
"""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode

from rl_lab.core.world import Array, World
from rl_lab.engine import batch_faults, batch_view, buffers, compiler, first_start, parallel_step, vectorization
from rl_lab.engine.batch_arrays import NUM_SEEDS as NUM_SEEDS
from rl_lab.engine.batch_arrays import NUM_STREAMS, BatchArrays
from rl_lab.engine.batch_faults import NonFiniteError as NonFiniteError
from rl_lab.engine.thread_tuner import ThreadTuner

AUTORESET_CODES = {
    AutoresetMode.SAME_STEP: buffers.SAME_STEP,
    AutoresetMode.NEXT_STEP: buffers.NEXT_STEP,
    AutoresetMode.DISABLED: buffers.DISABLED,
}
_OBSERVE_ONLY = 2  # in the mask of `reset_masked`: write the world's observations without a reset
# Call c of `random_actions` uses the Philox counters from c * 2**36 on, one for each number of an action: enough for
# the largest batch, of 2**24 worlds, with 4096 numbers in each.
_CALL_SHIFT = 36
ILLEGAL_CODES = {"refuse": buffers.REFUSE, "forfeit": buffers.FORFEIT, "noop": buffers.NOOP}


class Batch(BatchArrays):
    """N worlds with A agents each, stepped together; contiguous arrays hold their states, actions and observations.

    The arrays keep their addresses, except that `step_into_new_buffer` and `new_observation_buffer` replace
    `observations`.

    Args:
        world: the definition of the worlds.
        num_envs: N, their number.
        params: one Params record for all worlds, or N records; None for the defaults.
        seed: 0 to 2**32 - 1; `seed` takes others later.
        first: world i uses random stream `first + i` of the seed, so two batches can be the parts of a larger one.
        threads: 1 steps in this thread, k > 1 in k threads; None measures which is faster.
        autoreset: when the next episode of a world begins, as in Gymnasium.
        plain: True runs the kernels as plain Python, for debugging.
        illegal: what an illegal action leads to. "refuse": `step` raises ValueError and changes nothing. "forfeit": the
            episode terminates and the agent's reward is the world's `illegal_action_reward`; in a zero-sum world, the
            other agents share the opposite amount. "noop": in a turn-based world, the step counts, but the rules are
            not applied and the same agent moves again; in other worlds, the agent's first legal action is used.

    Raises:
        ValueError: an argument is out of range.
        WorldError: the world's kernels break the rules for kernels.
    """

    __doc__ = f"{__doc__}\n    Arrays, where K is the number of log fields:\n{buffers.describe()}\n"  # noqa: A003

    def __init__(
        self,
        world: World,
        num_envs: int,
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
        if not 0 < num_envs < NUM_STREAMS:
            raise ValueError(f"worlds={num_envs}: expected 1 to {NUM_STREAMS - 1}")
        if params.dtype != world.Params.dtype or params.shape not in ((1,), (num_envs,)):
            raise ValueError(
                f"params: expected 1 or {num_envs} records of {world.name}'s Params, got shape {params.shape}"
            )
        world.Params.check(params)
        if illegal not in ILLEGAL_CODES:
            raise ValueError(f"illegal={illegal!r}: expected one of {', '.join(ILLEGAL_CODES)}")
        buffers.check_memory(world, num_envs)
        self.world, self.num_envs, self.plain, self.autoreset = world, num_envs, plain, autoreset
        # Loops that step a block of worlds at a time write whole blocks: arrays have memory for the last one.
        self._capacity = vectorization.padded_capacity(world, num_envs)
        vars(self).update(buffers.allocate(world, num_envs, len(params), self._capacity))
        self.params[...] = params
        self.illegal = illegal
        self._arguments = {"threads": threads, "autoreset": autoreset, "plain": plain, "illegal": illegal}
        self.threads = os.cpu_count() or 1 if threads is None else threads
        if self.threads < 1:
            raise ValueError(f"threads={threads}: expected at least 1")
        self._prepare_loops()
        self.tuner = ThreadTuner() if threads is None and self.threads > 1 and not plain else None
        self._threaded = threads is not None and threads > 1 and not plain
        self._failure, self._failed_world, self._calls = "", 0, 0
        self._all_worlds = np.ones(num_envs, np.uint8)
        self.seed(seed, first)

    def _prepare_loops(self) -> None:
        """Build the header, through which compiled code reads the arrays, and find the world's loops."""
        settings = {
            "mode": AUTORESET_CODES[self.autoreset],
            "horizon": self.world.horizon,
            "illegal": ILLEGAL_CODES[self.illegal],
        }
        block_size = vectorization.BLOCK if vectorization.vectorization_plan(self.world) else 1
        self._header = buffers.build_header(self, settings, block_size)
        self._address: int = self._header.ctypes.data
        self._outcomes = np.zeros(self.threads, np.int64)
        self._step_serial: Any = None  # until the world's step is compiled, at the first step
        self._loops: Any
        self._handle: Any
        if self.plain:
            self._loops, self._handle = compiler.plain_loops(self.world), batch_view.plain_view(self, settings)
        else:
            self._loops, self._handle = first_start.examined_loops(self.world, _make_plain_batch), self._address

    def reset(self, mask: Array | None = None) -> Array:
        """Begin a new episode in every world, or where `mask`, bool [N], is True; return `observations`.

        Raises:
            NonFiniteError: an observation is NaN or infinite.
            WorldError: a kernel does not compile.
        """
        selected = self._all_worlds if mask is None else np.asarray(mask, np.bool_).astype(np.uint8)
        if selected.shape != (self.num_envs,):
            raise ValueError(f"mask of shape {selected.shape}: expected ({self.num_envs},)")
        reseeded = self.reseed & selected.astype(np.bool_)
        self.states["rng_key"][reseeded] = self.pending_keys[reseeded]
        self.states["rng_counter"][reseeded] = self.pending_counters[reseeded]
        self.reseed &= ~reseeded
        if selected[self._failed_world]:
            self._failure = ""
        self._run_reset(selected)
        return self.observations

    def _run_reset(self, mask: Array) -> None:
        """Call the loop `reset_masked`, which has the meanings of mask, uint8 [N]; raise the exception of a fault."""
        if not self.plain:
            first_start.examine_once(self.world, "resets", _make_plain_batch)
        with np.errstate(all="ignore"):  # compiled code is silent about infinities, too
            outcome = self._call_compiled(self._loops.reset_masked, self._handle, mask)
        if outcome < 0:
            self.raise_fault(outcome)

    def step(self) -> int:
        """Step every world with the actions in `actions`; return how many episodes ended.

        Raises:
            ValueError: an action is outside its space or illegal; no world has been stepped.
            StuckError: an agent that has to act has no legal action; no world has been stepped.
            NonFiniteError: a reward or observation is NaN or infinite; `reset` or `restore` must be called next. Until
                then each step raises it again, with a message that names `reset` alone.
            WorldError: a kernel does not compile, or raised an exception.
        """
        if self._failure:
            raise NonFiniteError(f"{self._failure}; call reset() first")
        if self.plain:
            outcome = self._step_plain()
        else:
            if self._step_serial is None:
                self._compile()
            if self._threaded:
                outcome = self._step_threaded()
            elif self.tuner is not None:
                outcome = self._step_tuned(self.tuner)
            else:
                outcome = self._step_serial(self._address)
        if outcome < 0:
            self.raise_fault(outcome)
        return int(outcome)

    def _call_compiled(self, function: Any, *arguments: Any) -> Any:
        """Call a function that numba may have to compile first; raise WorldError where a kernel does not compile."""
        try:
            return function(*arguments)
        except Exception as error:
            mistake = batch_faults.explain_exception(self, error, _make_plain_batch)
            if mistake is None:
                raise
            raise mistake from error

    def step_into_new_buffer(self) -> int:
        """Step as `step` does, and write the observations into a new array, so that callers can keep the old one.

        Raises:
            ValueError: as `step` does; or worlds are not reset automatically, so that no step would write the rows of
                those that have ended.
            NonFiniteError, StuckError, WorldError: as `step` does.
        """
        if self.autoreset == AutoresetMode.DISABLED:
            raise ValueError("step_into_new_buffer: this batch does not reset by itself")
        before = self.observations
        self.new_observation_buffer()
        try:
            ended = self.step()
        except (ValueError, NonFiniteError):  # no world has been stepped, or worlds must be reset
            self.bind_observations(before)
            raise
        if self.paused.any():  # a step does not write the rows of paused worlds
            self.observations[self.paused] = before[self.paused]
        return ended

    def _step_threaded(self) -> int:
        return parallel_step.step_parallel(self._address, self._outcomes, self.threads)

    def _step_plain(self) -> int:
        loops, view = self._loops, self._handle
        with np.errstate(all="ignore"):
            return int(loops.check_range(0, self.num_envs, view) or loops.step_range(0, self.num_envs, view))

    def _compile(self) -> None:
        first_start.examine_once(self.world, "steps", _make_plain_batch)
        self._header[[buffers.CHECK, buffers.STEP]] = self._call_compiled(compiler.step_addresses, self._loops)
        self._step_serial = compiler.dispatch().step_serial

    def _step_tuned(self, tuner: ThreadTuner) -> int:
        begin = time.perf_counter()
        outcome = self._step_threaded() if tuner.threaded else int(self._step_serial(self._address))
        end = time.perf_counter()
        tuner.record(end, end - begin)
        if tuner.is_final:
            self.tuner = None
        return outcome

    def native_handle(self) -> int:
        """Return the address of the batch's header, by which compiled code steps the batch.

        The header's elements CHECK and STEP are addresses of functions `int64 f(low, high, header)`. The first checks
        the actions of worlds low..high-1. If it returns 0, the second steps these worlds in the calling thread. Both
        return an outcome; `raise_fault` raises the exception that a negative one stands for.
        """
        if self.plain:
            raise ValueError("a batch with plain=True has no compiled code")
        if self._failure:
            raise NonFiniteError(f"{self._failure}; call reset() first")
        if self._step_serial is None:
            self._compile()
        return self._address

    def raise_fault(self, outcome: int) -> None:
        """Raise the exception that a negative outcome of a step or reset stands for; see `buffers.FAULTS`."""
        error = batch_faults.explain_outcome(self, outcome, _make_plain_batch)
        if isinstance(error, NonFiniteError):
            self._failed_world, self._failure = batch_faults.world_of(outcome), str(error)
        raise error

    def scripted_actions(self, strength: str = "expert") -> Array:
        """Write actions of the world's "expert" or "novice" into `actions`, for all acting agents; return `actions`.

        Raises:
            ValueError: the world has no such kernel.
        """
        if strength not in ("expert", "novice"):
            raise ValueError(f"strength={strength!r}: expected expert or novice")
        if getattr(self.world, strength) is None:
            raise ValueError(f"{self.world.name} has no {strength}")
        if not self.plain:
            first_start.examine_once(self.world, "steps", _make_plain_batch)
        self._call_compiled(getattr(self._loops, f"{strength}_actions"), self._handle)
        return self.actions

    def random_actions(self, seed: int = 0) -> Array:
        """Write uniformly random legal actions into `actions` for all acting agents, and return `actions`.

        They depend on the seed, on the number of earlier calls, on the world's index and on the agent's, but not on the
        random streams of the worlds.
        """
        self._loops.random_actions(self._handle, np.uint64(seed), np.uint64(self._calls << _CALL_SHIFT))
        self._calls += 1
        return self.actions

    def observe(self, i: int | None = None) -> Array:
        """Write the observations of world i, or of all, after a caller has changed their states or params."""
        mask = np.full(self.num_envs, _OBSERVE_ONLY if i is None else 0, np.uint8)
        if i is not None:
            mask[i] = _OBSERVE_ONLY
        self._run_reset(mask)
        return self.observations

    def close(self) -> None:
        """Do nothing; this is for callers of any batch, since those of foreign environments must be closed."""


def _make_plain_batch(world: World, num_envs: int, params: Array | None = None, **options: Any) -> Batch:
    """Return a batch whose kernels run as plain Python."""
    return Batch(world, num_envs, params, plain=True, **options)
