"""This template has minimax: alpha-beta search by iterative deepening, with a transposition table and move ordering.

It is compiled once for each world, see `engine/template_context.py`; `search.agents` calls `search`, which writes
records `workspace.ANSWER` and the thread's own buffers, and nothing else.

- Ply d is d actions from the root; its state is `buffers.states[d]` and its record `ab_buffers.plies[d]`, a
  `workspace.PLY`. Seat 0 maximises and seat 1 minimises; values are returns of seat 0 from the ply on.
- A reward at ply d is multiplied by 1 - d * DEPTH_DISCOUNT, so that the faster of two wins is chosen, and the slower of
  two losses.
- A value is open if it depends on positions at the depth limit, where the mean of playouts, or 0, takes the place of a
  search. A value that is not open is exact.
- Actions are tried in this order: the transposition table's best one, then those that have caused most cutoffs at this
  seat so far (history heuristic).

Arguments: `buffers` are the `SearchBuffers` and `ab_buffers` the `AlphaBetaBuffers` of `workspace`, `p` is the world's
Params, `depth` the ply, and `max_depth` the depth limit of this iteration in plies.

Source: Knuth and Moore 1975, "An analysis of alpha-beta pruning"; Korf 1985, "Depth-first iterative-deepening: an
optimal admissible tree search"; Schaeffer 1989, "The history heuristic and alpha-beta search enhancements in practice".
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rl_lab.engine.atomics import atomics
from rl_lab.engine.template_context import decorators, world_context
from rl_lab.games.search.templates.primitives import (
    copy_state,
    find_legal_actions,
    hash_words,
    next_legal_action,
    playout,
    random_int,
    take_action,
    unmanaged_buffers,
    unmanaged_view,
)
from rl_lab.games.search.workspace import AlphaBetaBuffers

inline, internal, jit = decorators().inline, decorators().internal, decorators().jit
current_player, read_at = world_context().kernels.current_player, atomics()["read_at"]
RNG_WORDS = world_context().constants.rng_words  # a state begins with this many 8-byte words of its random stream

DEPTH_DISCOUNT = 2.0**-20
# At the root, alpha and beta keep this relative distance from the best value. Otherwise an action that is as good as
# the best would be cut off with a bound, and `_iterative_deepening` could not select at random among equals.
ROOT_MARGIN = 2.0**-30
EXACT, AT_LEAST, AT_MOST = 0, 1, 2  # what a table entry's value is to the position's value
# Indices of `ab_buffers.counters`: the actions taken so far in this search, the number of this root (entries of other
# roots are not used), and the number of best actions at the root.
NUM_SEARCHED, ROOT_NUMBER, NUM_BEST = 0, 1, 2


@inline
def _table_entry(ab_buffers: Any, key: Any) -> Any:
    """Return the transposition table's entry for a hash; it may belong to another position."""
    return ab_buffers.transpositions[np.int64(key & np.uint64(len(ab_buffers.transpositions) - 1))]


@internal
def _estimate(depth: Any, buffers: Any, ab_buffers: Any, p: Any) -> Any:
    """Return the mean return of random playouts from a ply; it is always the same for the same position and seed."""
    buffers.rng_state[0] = ab_buffers.plies[depth].key ^ buffers.seed
    last, total = len(buffers.states) - 1, 0.0  # the last state is the one in which playouts are played
    for _ in range(ab_buffers.num_playouts):
        copy_state(buffers.words, last, buffers.words, depth)
        playout_return, num_actions = playout(last, buffers, p)
        total += playout_return
        ab_buffers.counters[NUM_SEARCHED] += num_actions
    return total / ab_buffers.num_playouts


@inline
def _begin_ply(depth: Any, alpha: Any, beta: Any, max_depth: Any, buffers: Any, ab_buffers: Any, p: Any) -> Any:
    """Initialize a ply whose state has been written; return True if its `best_value` needs no search.

    That is so where the player has no action, at the depth limit, and where the transposition table has the value.
    """
    ply, s = ab_buffers.plies[depth], buffers.states[depth]
    ply.alpha = ply.alpha_at_entry = alpha
    ply.beta = ply.beta_at_entry = beta
    ply.seat, ply.num_tried, ply.is_open = current_player(s), 0, 0
    ply.best_value, ply.best_action, ply.table_action = 0.0, -1, -1
    ply.num_actions = find_legal_actions(s, ply.seat, p, buffers.mask)
    if ply.num_actions == 0:
        return True
    ply.key = hash_words(buffers.words, depth, RNG_WORDS, np.uint64(0))
    if depth >= max_depth:
        ply.is_open = 1
        if ab_buffers.num_playouts > 0:
            ply.best_value = _estimate(depth, buffers, ab_buffers, p)
        return True
    entry = _table_entry(ab_buffers, ply.key)
    if entry.key == ply.key and entry.root_number == ab_buffers.counters[ROOT_NUMBER]:
        ply.table_action = entry.best_action
        if depth > 0 and (entry.depth_limit == max_depth or entry.is_open == 0):
            bound, value = entry.bound, entry.value
            if bound == EXACT or (bound == AT_LEAST and value >= beta) or (bound == AT_MOST and value <= alpha):
                ply.best_value, ply.is_open = value, entry.is_open
                return True
    action = 0
    for k in range(ply.num_actions):
        action = next_legal_action(buffers.mask, action)
        ab_buffers.legal_actions[depth, k] = action
        action += 1
    ply.best_value = -np.inf if ply.seat == 0 else np.inf
    return False


@inline
def _next_action(depth: Any, ab_buffers: Any) -> Any:
    """Return the action to try next, and count it as tried: the table's, else the one with the most cutoff weight.

    The actions that have been tried are moved to the front of `legal_actions`.
    """
    ply, best = ab_buffers.plies[depth], ab_buffers.plies[depth].num_tried  # `best` is an index of legal_actions
    for k in range(ply.num_tried, ply.num_actions):
        action = ab_buffers.legal_actions[depth, k]
        if action == ply.table_action:
            best = k
            break
        if (
            ab_buffers.cutoff_weights[ply.seat, action]
            > ab_buffers.cutoff_weights[ply.seat, ab_buffers.legal_actions[depth, best]]
        ):
            best = k
    action = ab_buffers.legal_actions[depth, best]
    ab_buffers.legal_actions[depth, best] = ab_buffers.legal_actions[depth, ply.num_tried]
    ab_buffers.legal_actions[depth, ply.num_tried] = action
    ply.num_tried += 1
    return action


@inline
def _back_up(depth: Any, value: Any, is_open: Any, ab_buffers: Any) -> None:
    """Update a ply's best action, alpha and beta by the value of its current action, whose search has ended."""
    ply, margin = ab_buffers.plies[depth], 0.0
    ply.is_open |= is_open
    if depth == 0:
        ab_buffers.root_values[ply.current_action] = value
        margin = ROOT_MARGIN * max(1.0, abs(value))
    if ply.seat == 0:
        if value > ply.best_value:
            ply.best_value, ply.best_action = value, ply.current_action
        ply.alpha = max(ply.alpha, ply.best_value - margin)
    else:
        if value < ply.best_value:
            ply.best_value, ply.best_action = value, ply.current_action
        ply.beta = min(ply.beta, ply.best_value + margin)


@inline
def _is_cut_off(ply: Any) -> Any:
    """Return True if the other player would not enter this ply, whatever the untried actions are worth.

    alpha >= beta says the same only where alpha < beta at entry. Beside a large reward, the two differences
    alpha - reward and beta - reward can round to one number, and the ply must be searched all the same.
    """
    return ply.best_value >= ply.beta if ply.seat == 0 else ply.best_value <= ply.alpha


@inline
def _store_in_table(depth: Any, max_depth: Any, ab_buffers: Any) -> None:
    """Write a ply's value into the transposition table, over the entry that is there; count a cutoff.

    Cutoffs far from the depth limit save more, so their weight is the square of the remaining depth.
    """
    ply = ab_buffers.plies[depth]
    is_cut_off = _is_cut_off(ply)
    if is_cut_off:
        ab_buffers.cutoff_weights[ply.seat, ply.best_action] += (max_depth - depth) * (max_depth - depth)
    entry = _table_entry(ab_buffers, ply.key)
    entry.key, entry.root_number, entry.depth_limit = ply.key, ab_buffers.counters[ROOT_NUMBER], max_depth
    entry.value, entry.best_action, entry.is_open = ply.best_value, ply.best_action, ply.is_open
    is_upper_bound, is_lower_bound = ply.best_value <= ply.alpha_at_entry, ply.best_value >= ply.beta_at_entry
    if is_cut_off:  # first: where alpha and beta were equal at entry, the value may be equal to both
        entry.bound = AT_LEAST if ply.seat == 0 else AT_MOST
    else:
        entry.bound = AT_MOST if is_upper_bound else AT_LEAST if is_lower_bound else EXACT


@internal
def _search_to_depth(max_depth: Any, buffers: Any, ab_buffers: Any, p: Any) -> Any:
    """Search `max_depth` plies deep; return False where the limit of nodes, or a request to stop, has ended it before.

    The recursion of alpha-beta is written as a loop over `depth`, because machine code of functions that call
    themselves cannot be kept on disk:

    - `is_entering`: the ply has just been reached. It is initialized.
    - If it has untried actions and no cutoff, the next one is taken, which enters the ply below.
    - Otherwise its value is backed up to the ply above. `has_value` says that the value has come without a search, so
      that it is not stored in the transposition table.

    At ply 0, `root_values` receives the value of each action.
    """
    ab_buffers.root_values[:] = np.nan
    depth, alpha, beta, is_entering, has_value = 0, -np.inf, np.inf, True, False
    while True:
        if is_entering:
            has_value = _begin_ply(depth, alpha, beta, max_depth, buffers, ab_buffers, p)
        ply = ab_buffers.plies[depth]
        is_entering = not has_value and ply.num_tried < ply.num_actions and not _is_cut_off(ply)
        if is_entering:
            # The search to depth 1 is always finished, so that there is an answer.
            if max_depth > 1 and 0 < ab_buffers.max_nodes <= ab_buffers.counters[NUM_SEARCHED]:
                return False
            if read_at(buffers.stop_address) != 0:
                return False
            ab_buffers.counters[NUM_SEARCHED] += 1
            parent = ply
            parent.current_action = _next_action(depth, ab_buffers)
            copy_state(buffers.words, depth + 1, buffers.words, depth)
            depth += 1
            reward, over = take_action(
                buffers.states[depth], parent.current_action, p, buffers.rewards, buffers.horizon
            )
            parent.reward = reward * (1.0 - depth * DEPTH_DISCOUNT)
            alpha, beta = parent.alpha - parent.reward, parent.beta - parent.reward
            if over:
                ab_buffers.plies[depth].best_value, ab_buffers.plies[depth].is_open = 0.0, 0
                is_entering, has_value = False, True
        else:
            if not has_value:
                _store_in_table(depth, max_depth, ab_buffers)
            if depth == 0:
                return True
            depth -= 1
            has_value = False
            value = ab_buffers.plies[depth].reward + ab_buffers.plies[depth + 1].best_value
            _back_up(depth, value, ab_buffers.plies[depth + 1].is_open, ab_buffers)


@internal
def _iterative_deepening(buffers: Any, ab_buffers: Any, p: Any, answer: Any) -> None:
    """Search from state 0 to increasing depths until a limit is reached or the value is exact; write `answer`.

    The values are those of the last complete iteration. Of several best actions, a random one is answered; the random
    numbers depend on the root's state and the seed alone.
    """
    ab_buffers.cutoff_weights[:] = 0
    ab_buffers.counters[NUM_SEARCHED] = 0
    ab_buffers.counters[ROOT_NUMBER] += 1
    root = ab_buffers.plies[0]
    for max_depth in range(1, len(ab_buffers.plies)):
        if not _search_to_depth(max_depth, buffers, ab_buffers, p):
            break
        ab_buffers.counters[NUM_BEST] = 0
        for action in range(len(ab_buffers.root_values)):
            if ab_buffers.root_values[action] == root.best_value:
                ab_buffers.best_root_actions[ab_buffers.counters[NUM_BEST]] = action
                ab_buffers.counters[NUM_BEST] += 1
        answer.value = root.best_value if root.seat == 0 else -root.best_value
        if root.is_open == 0:
            answer.exact = 1
            break
    answer.nodes = ab_buffers.counters[NUM_SEARCHED]
    if root.num_actions > 0:
        buffers.rng_state[0] = hash_words(buffers.words, 0, 0, buffers.seed)
        answer.action = ab_buffers.best_root_actions[random_int(buffers, ab_buffers.counters[NUM_BEST])]


@jit
def search(env_indices: Any, first: Any, stride: Any, buffers: Any, ab_buffers: Any, answers: Any) -> None:
    """Search the games buffers.roots[env_indices[k]] and write answers[k], for k = first, first + stride, ...

    `env_indices` is int64 [R], `answers` [R] records `workspace.ANSWER`. Each of `stride` threads has its own `first`,
    and buffers of its own. If the search is to stop, the answers from there on are not complete.
    """
    buffers = unmanaged_buffers(buffers)
    ab_buffers = AlphaBetaBuffers(
        unmanaged_view(ab_buffers.plies),
        unmanaged_view(ab_buffers.legal_actions),
        unmanaged_view(ab_buffers.transpositions),
        unmanaged_view(ab_buffers.cutoff_weights),
        unmanaged_view(ab_buffers.root_values),
        unmanaged_view(ab_buffers.best_root_actions),
        unmanaged_view(ab_buffers.counters),
        ab_buffers.max_nodes,
        ab_buffers.num_playouts,
    )
    for k in range(first, len(env_indices), stride):
        i = env_indices[k]
        copy_state(buffers.words, 0, buffers.roots, i)
        _iterative_deepening(buffers, ab_buffers, buffers.params[min(i, len(buffers.params) - 1)], answers[k])
        if read_at(buffers.stop_address) != 0:
            return
