"""This module builds the context that templates are executed in for a world: its kernels and constants.

`compiled_context` has kernels that numba compiles, `plain_context` the author's own functions. `template_context`
defines the classes, `compiler` is the caller. Nothing is written.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium.spaces import Discrete

from rl_lab.core import kernel as kernels
from rl_lab.core import rng
from rl_lab.engine import buffers, soa_intrinsics, vectorization
from rl_lab.engine.batch_view import compiled_view
from rl_lab.engine.template_context import Decorator, Kernels, SimdContext, WorldConstants, WorldContext

if TYPE_CHECKING:
    from rl_lab.core.world import World

KERNEL_NAMES = ("reset", "step", "observe", "action_mask", "expert", "novice")


def compiled_context(world: World, inline: Decorator, keys: tuple[str, ...], module: str) -> WorldContext:
    """Return the context whose functions are compiled; of the world's kernels it has these only.

    `module` is the name of the module that the compiled kernels belong to.
    """
    compiled_kernels: dict[Any, Any] = {}
    kernels_by_name = dict.fromkeys(KERNEL_NAMES) | {
        key: kernels.compile_kernel_graph(function, inline, compiled_kernels, module)
        for key in keys
        if (function := getattr(world, key)) is not None
    }
    if (all_actions := _all_actions_mask(world)) is not None:
        kernels_by_name["action_mask"] = inline(all_actions)
    compiled = Kernels(
        **kernels_by_name,
        current_player=inline(_current_player(world)),
        is_alive=inline(_is_alive(world)),
        philox=kernels.compile_kernel_graph(rng.philox, inline, module=module),
    )
    return WorldContext(compiled, constants(world), compiled_view(world), True, _simd_context(world))


def plain_context(world: World) -> WorldContext:
    """Return the context whose functions are the author's own."""
    kernels_by_name = {key: getattr(world, key) for key in KERNEL_NAMES}
    kernels_by_name["action_mask"] = _all_actions_mask(world) or kernels_by_name["action_mask"]
    plain = Kernels(
        **kernels_by_name, current_player=_current_player(world), is_alive=_is_alive(world), philox=rng.philox
    )
    return WorldContext(plain, constants(world), lambda view: view, False)


def dependencies(world: World, keys: tuple[str, ...]) -> list[Any]:
    """Return everything that machine code made of a context of these kernels depends on, for `kernel.fingerprint`."""
    author_kernels: list[Any] = [getattr(world, key) for key in keys]
    layout = buffers.Layout.of(world)
    sizes: list[Any] = [sorted(layout.shapes.items()), sorted(layout.dtypes.items())]
    plan = vectorization.vectorization_plan(world)
    return [author_kernels, world.current_player_field, world.alive_field, astuple(constants(world)), sizes, repr(plan)]


def constants(world: World) -> WorldConstants:
    """Return the numbers, shapes and dtypes that templates need."""
    shape, fields = world.observation.shape, dict(world.State.dtype.fields or {})
    num_actions, action_low, action_high = _action_bounds(world)
    return WorldConstants(
        state=world.State.dtype,
        params=world.Params.dtype,
        observation=np.dtype(world.observation.dtype),
        observation_shape=shape,
        observation_size=int(np.prod(shape)),
        has_real_observations=world.observation.low.dtype.kind == "f",
        state_words=world.State.dtype.itemsize // 8,
        rng_words=fields["t"][1] // 8,
        log_word=fields["log"][1] // 8 if "log" in fields else 0,
        log_size=len(world.log_names),
        num_agents=len(world.agents),
        single_agent=len(world.agents) == 1,
        has_action_mask=world.has_action_mask,
        mask_size=world.mask_size,
        is_turn_based=bool(world.current_player_field),
        has_early_termination=bool(world.alive_field),
        zero_sum=world.zero_sum,
        forfeit_reward=float(world.illegal_action_reward),
        discrete=isinstance(world.action, Discrete),
        num_actions=num_actions,
        action_low=action_low,
        action_high=action_high,
    )


def _action_bounds(world: World) -> tuple[Any, Any, Any]:
    """Return how many actions each agent has, or the lowest and highest numbers of each agent's action."""
    if isinstance(world.action, Discrete):
        return np.array([space.n for space in world.action_spaces], np.int64), None, None  # type: ignore[union-attr]
    # Agents whose actions have fewer numbers ignore the rest of the row.
    low, high = (np.full((len(world.agents), *world.action_shape), side, np.float32) for side in (-np.inf, np.inf))
    for a, space in enumerate(world.action_spaces):
        low[a, : space.shape[0]], high[a, : space.shape[0]] = space.low, space.high  # type: ignore[index, union-attr]
    return None, low, high


def _simd_context(world: World) -> SimdContext | None:
    plan = vectorization.vectorization_plan(world)
    if plan is None:
        return None
    store_lane, load_lane = soa_intrinsics.reward_column()
    return SimdContext(
        block=vectorization.BLOCK,
        transpose_tile=vectorization.TRANSPOSE_TILE,
        column_bytes=8 * vectorization.BLOCK,
        state_columns_bytes=vectorization.columns_bytes(plan.state),
        params_columns_bytes=vectorization.columns_bytes(plan.params),
        gather_states=soa_intrinsics.make_aos_soa_transpose(plan.state, True),
        load_state=soa_intrinsics.make_field_copy(plan.state, True, False),
        save_state=soa_intrinsics.make_field_copy(plan.written, False, True),
        scatter_states=soa_intrinsics.make_aos_soa_transpose(plan.written, False),
        gather_params=soa_intrinsics.make_aos_soa_transpose(plan.params, True),
        broadcast_params=soa_intrinsics.make_field_copy(plan.params, False, True),
        load_params=soa_intrinsics.make_field_copy(plan.params, True, False),
        stack_alloc=soa_intrinsics.stack_alloc(),
        store_lane=store_lane,
        load_lane=load_lane,
    )


def _current_player(world: World) -> Callable[..., Any]:
    """Return a function of the state: the agent whose turn it is, in a world that names the field."""
    name = world.current_player_field or "t"

    def current_player(s: Any) -> Any:
        return getattr(s, name)

    return current_player


def _is_alive(world: World) -> Callable[..., Any]:
    """Return a function of the state and an agent: whether the agent has not left its episode."""
    name = world.alive_field

    def is_alive(s: Any, agent: Any) -> Any:
        return getattr(s, name)[agent]

    def always_alive(s: Any, agent: Any) -> Any:
        return 1

    return is_alive if name else always_alive


def _all_actions_mask(world: World) -> Callable[..., Any] | None:
    """Return the action mask of a world where only the number of actions differs between agents, None for others."""
    if not world.has_action_mask or world.action_mask:
        return None
    num_actions = _action_bounds(world)[0]

    def all_actions(s: Any, agent: Any, p: Any, mask: Any) -> None:
        for k in range(num_actions[agent]):
            mask[k] = 1

    return all_actions
