"""Make the contender gymnax of `rl-lab bench env`, whose environments are vectorised and compiled by JAX.

It is measured in its fastest mode: one compiled call (`lax.scan`) draws random actions and takes many steps.
"""

from __future__ import annotations

import time

from rl_lab.bench.timing import Contender

# gymnax's id of a world, by the world's name.
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
_STEPS = 32  # steps in one call


def gymnax(world: str, num_envs: int) -> Contender:
    """Return the contender with a batch of gymnax's environment for this world."""
    import gymnax as peer
    import jax

    begin = time.perf_counter()
    env, params = peer.make(IDS[world])
    space = env.action_space(params)
    reset, step, draw = (
        jax.vmap(function, in_axes)
        for function, in_axes in ((env.reset, (0, None)), (env.step, (0, 0, 0, None)), (space.sample, 0))
    )

    def step_once(carry, key):  # type: ignore[no-untyped-def]
        states, _, total = carry
        acting, stepping = jax.random.split(key)
        keys = jax.random.split(stepping, num_envs)
        obs, states, rewards, *_ = step(keys, states, draw(jax.random.split(acting, num_envs)), params)
        # The compiler would remove the computation of observations and rewards if they were not part of the result.
        return (states, obs, total + rewards.sum()), None

    @jax.jit
    def scan(carry, key):  # type: ignore[no-untyped-def]
        return jax.lax.scan(step_once, carry, jax.random.split(key, _STEPS))[0]

    obs, states = jax.jit(reset)(jax.random.split(jax.random.key(0), num_envs), params)
    carry, calls = (states, obs, 0.0), 0

    def run() -> int:
        nonlocal carry, calls
        calls += 1
        carry = jax.block_until_ready(scan(carry, jax.random.key(calls)))
        return num_envs * _STEPS

    run()
    cold = time.perf_counter() - begin
    return Contender("gymnax", "env", f"{num_envs} worlds, {_STEPS} steps a call of lax.scan, {IDS[world]}", run, cold)
