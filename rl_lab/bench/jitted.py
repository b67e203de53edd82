"""The peer of `rl-lab bench env` that runs on JAX: gymnax, whose environments are vectorised and compiled.

It is measured as it is fastest: random actions are drawn and many steps taken within one compiled call (`lax.scan`).
"""

from __future__ import annotations

import time

from .rounds import Contender

# World -> gymnax's id.
IDS = {
    "acrobot": "Acrobot-v1",
    "asterix": "Asterix-MinAtar",
    "breakout": "Breakout-MinAtar",
    "cartpole": "CartPole-v1",
    "freeway": "Freeway-MinAtar",
    "mountain_car": "MountainCar-v0",
    "mountain_car_continuous": "MountainCarContinuous-v0",
    "pendulum": "Pendulum-v1",
    "seaquest": "Seaquest-MinAtar",
    "space_invaders": "SpaceInvaders-MinAtar",
}
_STEPS = 32  # a call


def gymnax(world: str, worlds: int) -> Contender:
    """Return gymnax's environment of the same name, so many of them at once."""
    import gymnax as peer
    import jax

    begin = time.perf_counter()
    env, params = peer.make(IDS[world])
    space = env.action_space(params)
    reset, step, draw = (
        jax.vmap(function, in_axes)
        for function, in_axes in ((env.reset, (0, None)), (env.step, (0, 0, 0, None)), (space.sample, 0))
    )

    def advance(carried, key):  # type: ignore[no-untyped-def]
        states, _, total = carried
        acting, stepping = jax.random.split(key)
        keys = jax.random.split(stepping, worlds)
        seen, states, rewards, *_ = step(keys, states, draw(jax.random.split(acting, worlds)), params)
        return (states, seen, total + rewards.sum()), None  # all three are needed at the end, so nothing is left out

    @jax.jit
    def scan(carried, key):  # type: ignore[no-untyped-def]
        return jax.lax.scan(advance, carried, jax.random.split(key, _STEPS))[0]

    seen, states = jax.jit(reset)(jax.random.split(jax.random.key(0), worlds), params)
    carried, calls = (states, seen, 0.0), 0

    def run() -> int:
        nonlocal carried, calls
        calls += 1
        carried = jax.block_until_ready(scan(carried, jax.random.key(calls)))
        return worlds * _STEPS

    run()
    cold = time.perf_counter() - begin
    return Contender("gymnax", "env", f"{worlds} worlds, {_STEPS} steps a call of lax.scan, {IDS[world]}", run, cold)
