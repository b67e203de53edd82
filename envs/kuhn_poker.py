"""Kuhn poker: three cards, two players, one bet.

observation  f4 (11,)  seat 2, own card 3, and up to three moves 3 x (pass, bet), all one-hot
action       0 pass (check or fold), 1 bet (or call)
reward       chips won or lost, on the last step: 1, or 2 after a called bet
ends         when both have passed, or when a bet was passed or called

Each player antes 1 and gets a jack, a queen or a king. The higher card wins, unless its owner folds to a bet of 1. The
expert plays a Nash equilibrium, whose value is -1/18 for the first player.

Source: Kuhn 1950, "A simplified two-person poker"; OpenSpiel's kuhn_poker, whose information state is what is observed
"""

from rl_lab.envs._cards import draw_chips, draw_hand, draw_speech_bubble, draw_table
from rl_lab.envs._games import random_index

from rl_lab.core.rng import integers
from rl_lab.core.world import Array, Box, Canvas, Discrete, Record, World, WorldState, bounded, f4, i4, kernel

CARDS, MAX_MOVES = 3, 3
ONE = f4(1)


class State(WorldState):
    to_move: i4 = bounded(0, low=0, high=1)
    cards: i4[2] = bounded(0, low=0, high=CARDS - 1)  # 0 jack, 1 queen, 2 king
    moves: i4 = bounded(0, low=0, high=MAX_MOVES)  # made so far
    bets: i4 = bounded(0, low=0, high=2**MAX_MOVES - 1)  # bit k: move k was a bet


class Params(Record):
    pass


@kernel
def reset(s: State, p: Params) -> None:
    s.cards[0] = integers(s, CARDS)
    s.cards[1] = (s.cards[0] + 1 + integers(s, CARDS - 1)) % CARDS


@kernel
def step(s: State, action: int, p: Params, rewards: Array) -> bool:
    me, faced = s.to_move, s.bets != 0
    s.bets = s.bets | i4(action << s.moves)
    s.moves, s.to_move = s.moves + 1, 1 - me
    if s.moves == 1 or (action == 1 and not faced):
        return False
    won = action == 1 or not faced  # there is a showdown
    won = won and s.cards[me] > s.cards[1 - me]
    stake = ONE + ONE if action == 1 else ONE
    rewards[me] = stake if won else -stake
    rewards[1 - me] = -rewards[me]
    return True


@kernel
def observe(s: State, agent: int, p: Params, out: Array) -> None:
    out[agent] = out[2 + s.cards[agent]] = ONE
    for k in range(MAX_MOVES):
        if k < s.moves:
            out[2 + CARDS + 2 * k + (s.bets >> k & 1)] = ONE


@kernel
def action_mask(s: State, agent: int, p: Params, mask: Array) -> None:
    mask[0] = mask[1] = 1


@kernel
def bet_prob_in_thirds(s: State, agent: int) -> int:
    """Return the expert's probability of a bet, in thirds: in Kuhn's equilibrium with the most bluffs of the first."""
    card = s.cards[agent]
    if s.bets == 0:
        return 1 if card == 0 else 3 * (card - 1)
    return 3 if card == 2 else card * (2 - agent)


@kernel
def expert(s: State, agent: int, p: Params) -> int:
    return 1 if random_index(s, 3) < bet_prob_in_thirds(s, agent) else 0


def draw(s: State, p: Params, canvas: Canvas) -> None:
    history = "".join("pb"[s.bets >> k & 1] for k in range(s.moves))
    over, mover = history in ("pp", "bp", "bb", "pbp", "pbb"), s.to_move
    folded = 1 - mover if history in ("bp", "pbp") else -1
    winner = -1 if not over else 1 - folded if folded >= 0 else int(s.cards[1] > s.cards[0])
    draw_table(canvas, num_cards=1)
    for agent in (0, 1):
        draw_hand(
            canvas, agent, "JQK"[s.cards[agent]], 0, not over and agent == mover, agent == winner, agent == folded
        )
        draw_chips(canvas, agent, 1 + ("b" in history[agent::2]), 4)
    if history:
        draw_speech_bubble(
            canvas, 1 - mover, ("check", "bet", "fold", "call")["pb".index(history[-1]) + 2 * ("b" in history[:-1])]
        )


world = World(
    State,
    Params,
    reset,
    step,
    observe,
    action_mask=action_mask,
    expert=expert,
    draw=draw,
    observation=Box(0, 1, (2 + CARDS + 2 * MAX_MOVES,)),
    action=Discrete(2),
    horizon=MAX_MOVES + 1,
    agents=("first", "second"),
    current_player_field="to_move",
    zero_sum=True,
    frames_per_second=2,
)
