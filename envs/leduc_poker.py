"""Leduc poker: six cards, two players, two rounds of bets, and a public card between them.

observation  f4 (24,)  seat 2, own rank 3, public rank 3 (none in the first round), then the calls and raises of each
             round in order, 2 rounds x 4 moves x (call, raise), each one-hot
action       0 fold, after a raise; 1 call (or check); 2 raise, twice a round at most
reward       chips won or lost, on the last step: 1 to 13
ends         on a fold, or when the second round's bets are even

Each player antes 1 and gets one of two jacks, two queens and two kings. A raise adds 2 in the first round and 4 in the
second. The first player opens both. A pair with the public card wins, then the higher rank; equal ranks share the pot.
The novice never folds and raises with a king or a pair; the expert compares its expected share of the pot with the
price of a call, and assumes that raises mean high cards.

Source: Southey et al. 2005, "Bayes' bluff"; OpenSpiel's leduc_poker, whose information state is what is observed
"""

from rl_lab.envs._cards import draw_card, draw_chips, draw_hand, draw_speech_bubble, draw_table
from rl_lab.envs._games import count_bits

from rl_lab.core.rng import integers
from rl_lab.core.world import Array, Box, Canvas, Discrete, Record, World, WorldState, bounded, f4, i4, kernel

DECK, RANKS, ROUNDS, MAX_MOVES = 6, 3, 2, 4
FOLD, CALL, RAISE = 0, 1, 2
ONE = f4(1)
PUBLIC = 2  # the index of the public card


class State(WorldState):
    to_move: i4 = bounded(0, low=0, high=1)
    round: i4 = bounded(0, low=0, high=ROUNDS - 1)
    cards: i4[3] = bounded(
        0, low=0, high=DECK - 1
    )  # of the first and second player, and the public one; card // 2 is its rank
    stakes: i4[2] = bounded(0, low=0, high=13)  # chips paid in
    moves: i4[ROUNDS] = bounded(0, low=0, high=MAX_MOVES)  # made in each round
    raises: i4[ROUNDS] = bounded(0, low=0, high=2**MAX_MOVES - 1)  # bit k: move k of the round was a raise
    folded: i4 = bounded(0, low=0, high=1)


class Params(Record):
    pass


@kernel
def reset(s: State, p: Params) -> None:
    for k in range(3):
        s.cards[k] = integers(s, DECK - k)
    # Each number is an index into the remaining cards; the following lines skip the cards dealt before, lowest first.
    s.cards[1] += 1 if s.cards[1] >= s.cards[0] else 0
    low, high = min(s.cards[0], s.cards[1]), max(s.cards[0], s.cards[1])
    s.cards[2] += 1 if s.cards[2] >= low else 0
    s.cards[2] += 1 if s.cards[2] >= high else 0
    s.stakes[0] = s.stakes[1] = 1


@kernel
def hand_strength(card: int, public: int) -> int:
    """Return the strength of a card with the public one; any pair beats any rank."""
    return card // 2 + (RANKS if card // 2 == public // 2 else 0)


@kernel
def step(s: State, action: int, p: Params, rewards: Array) -> bool:
    me, current_round = s.to_move, s.round
    other = 1 - me
    lead = -1
    if action != FOLD:
        s.stakes[me] = s.stakes[other] + (2 + 2 * current_round if action == RAISE else 0)
        if action == RAISE:
            s.raises[current_round] = s.raises[current_round] | i4(1 << s.moves[current_round])
        s.moves[current_round] += 1
        s.to_move = other
        if action == RAISE or s.moves[current_round] == 1:
            return False
        if current_round == 0:
            s.round, s.to_move = 1, 0
            return False
        lead = hand_strength(s.cards[me], s.cards[PUBLIC]) - hand_strength(s.cards[other], s.cards[PUBLIC])
    s.folded = 1 if action == FOLD else 0
    if lead != 0:
        won = s.stakes[other] if lead > 0 else -s.stakes[me]
        rewards[me], rewards[other] = won, -won
    return True


@kernel
def observe(s: State, agent: int, p: Params, out: Array) -> None:
    out[agent] = out[2 + s.cards[agent] // 2] = ONE
    if s.round == 1:
        out[2 + RANKS + s.cards[PUBLIC] // 2] = ONE
    for turn in range(ROUNDS):
        for k in range(MAX_MOVES):
            if k < s.moves[turn]:
                out[2 + 2 * RANKS + 2 * (MAX_MOVES * turn + k) + (s.raises[turn] >> k & 1)] = ONE


@kernel
def may_raise(s: State) -> bool:
    raises = s.raises[s.round]
    return raises & raises - 1 == 0  # fewer than two


@kernel
def action_mask(s: State, agent: int, p: Params, mask: Array) -> None:
    mask[FOLD] = 1 if s.stakes[agent] < s.stakes[1 - agent] else 0
    mask[CALL] = 1
    mask[RAISE] = 1 if may_raise(s) else 0


@kernel
def pot_share(s: State, agent: int) -> tuple[int, int]:
    """Return the expected share of the pot as a fraction, (numerator, denominator).

    It averages over the cards that the other player may have; a raise of that player makes its high cards more likely.
    """
    own, other, won, total = s.cards[agent], 1 - agent, 0, 0
    # How often the other player has raised in the first and in the second round. It makes every second move, whose bits
    # 0b101 << other selects.
    early_raises, late_raises = count_bits(s.raises[0] & 5 << other), count_bits(s.raises[1] & 5 << other)
    for theirs in range(DECK):
        for public in range(DECK):
            possible = s.round == 0 or public == s.cards[PUBLIC]
            if possible and own != theirs and own != public and theirs != public:
                mine, others = hand_strength(own, public), hand_strength(theirs, public)
                weight = 2
                for _ in range(early_raises):
                    weight *= 1 + theirs // 2
                for _ in range(late_raises):
                    weight *= 1 + others
                total += weight
                won += weight if mine > others else weight // 2 if mine == others else 0
    return won, total


@kernel
def expert(s: State, agent: int, p: Params) -> int:
    won, total = pot_share(s, agent)
    call_price, pot = s.stakes[1 - agent] - s.stakes[agent], s.stakes[0] + s.stakes[1]
    if 100 * won > 60 * total and may_raise(s):
        return RAISE
    return CALL if won * (pot + call_price) >= call_price * total else FOLD


@kernel
def novice(s: State, agent: int, p: Params) -> int:
    public = s.cards[PUBLIC] if s.round == 1 else DECK
    has_top_hand = hand_strength(s.cards[agent], public) >= RANKS - 1  # the highest rank, or a pair
    return RAISE if has_top_hand and may_raise(s) else CALL


def draw(s: State, p: Params, canvas: Canvas) -> None:
    current_round = s.round if s.moves[s.round] else 0
    k = s.moves[current_round] - 1
    called = k > 0 and s.raises[current_round] >> k & 1 == 0
    over = s.folded or (called and current_round == 1)
    hands = [hand_strength(each, s.cards[PUBLIC]) for each in s.cards]
    draw_table(canvas, num_cards=3)
    public_card = s.cards[PUBLIC] if s.round else -1
    draw_card(canvas, 4, 3, "" if public_card < 0 else "JQK"[public_card // 2], public_card % 2)
    for agent in (0, 1):
        card, has_folded = s.cards[agent], s.folded and s.to_move == agent
        best = s.to_move != agent if s.folded else hands[agent] >= hands[1 - agent]
        draw_hand(canvas, agent, "JQK"[card // 2], card % 2, not over and s.to_move == agent, over and best, has_folded)
        draw_chips(canvas, agent, s.stakes[agent], 6)
    if s.folded:
        draw_speech_bubble(canvas, s.to_move, "fold")
    elif k >= 0:
        answer = "call" if s.raises[current_round] else "check"
        draw_speech_bubble(canvas, k % 2, "raise" if s.raises[current_round] >> k & 1 else answer)


world = World(
    State,
    Params,
    reset,
    step,
    observe,
    action_mask=action_mask,
    expert=expert,
    novice=novice,
    draw=draw,
    observation=Box(0, 1, (2 + 2 * RANKS + 2 * ROUNDS * MAX_MOVES,)),
    action=Discrete(3),
    horizon=ROUNDS * MAX_MOVES + 1,
    agents=("first", "second"),
    current_player_field="to_move",
    zero_sum=True,
    frames_per_second=2,
)
