"""This module draws a card table for two players, both of whose cards are shown, with chips and speech bubbles.

The `draw` functions of kuhn_poker and leduc_poker call it; it writes to the canvas alone.
"""

from __future__ import annotations

import math

from rl_lab.core.canvas import INK, Canvas, Color, translucent

FELT, RAIL, FLOOR, GOLD, WHITE = (38, 110, 92), (70, 47, 36), (28, 33, 40), (255, 202, 84), (252, 250, 244)
SUITS = (42, 47, 56), (206, 54, 58)  # spades, hearts
CHIPS = (58, 116, 196), (222, 116, 44)  # of the player below and of the one above
CARD_HEIGHT, CARD_WIDTH = 1.44, 1.02
HAND_Y, CHIPS_Y = (1.08, 4.92), (2.4, 3.46)  # of the player below and of the one above


def draw_table(canvas: Canvas, num_cards: int) -> None:
    """Draw a table, 8 by 6, with nothing on it but a deck of `num_cards` cards."""
    canvas.view(-0.3, -0.2, 8.3, 6.2)
    canvas.clear(FLOOR)
    canvas.rectangle(4, 2.95, 8.3, 5.9, (0, 0, 0, 70), corner=2.4)
    canvas.rectangle(4, 3, 8.1, 5.8, RAIL, corner=2.4)
    canvas.rectangle(4, 3, 7.75, 5.45, FELT, corner=2.25)
    canvas.rectangle(4, 3, 7.3, 5.0, translucent(WHITE, 0.07), corner=2.05)
    canvas.rectangle(4, 3, 7.24, 4.94, FELT, corner=2.02)
    for k in range(num_cards):
        draw_card(canvas, 1.35 + 0.05 * k, 3 + 0.05 * k)


def draw_suit(canvas: Canvas, x: float, y: float, size: float, suit: int, color: Color) -> None:
    """Draw a spade or a heart, `size` wide."""
    up, r = (1 if suit == 0 else -1), 0.27 * size
    for side in (-1, 1):
        canvas.circle(x + 0.23 * side * size, y - 0.1 * up * size, r, color)
    canvas.polygon(
        [
            (x - 0.465 * size, y + 0.03 * up * size),
            (x, y + 0.56 * up * size),
            (x + 0.465 * size, y + 0.03 * up * size),
            (x, y - 0.3 * up * size),
        ],
        color,
    )
    if suit == 0:
        canvas.polygon([(x, y), (x - 0.2 * size, y - 0.52 * size), (x + 0.2 * size, y - 0.52 * size)], color)


def draw_card(
    canvas: Canvas, x: float, y: float, rank: str = "", suit: int = 0, border: float = 0.0, pale: bool = False
) -> None:
    """Draw a card, or its back if `rank` is empty, with a golden border of this width."""
    canvas.rectangle(x + 0.03, y - 0.06, CARD_WIDTH, CARD_HEIGHT, (0, 0, 0, 80), corner=0.12)
    if border:
        canvas.rectangle(x, y, CARD_WIDTH + 2 * border, CARD_HEIGHT + 2 * border, GOLD, corner=0.12 + border)
    canvas.rectangle(x, y, CARD_WIDTH, CARD_HEIGHT, WHITE, corner=0.12)
    if rank:
        color = SUITS[suit]
        for side in (-1, 1):
            canvas.text(x + 0.34 * side, y - 0.51 * side, rank, 0.34, color)
        draw_suit(canvas, x, y, 0.5, suit, color)
    else:
        canvas.rectangle(x, y, CARD_WIDTH - 0.12, CARD_HEIGHT - 0.12, (47, 84, 150), corner=0.08)
        for k in range(-2, 3):
            v = y + 0.22 * k
            canvas.polygon([(x - 0.32, v), (x, v + 0.1), (x + 0.32, v), (x, v - 0.1)], (92, 132, 198))
    if pale:
        canvas.rectangle(x, y, CARD_WIDTH, CARD_HEIGHT, translucent(FELT, 0.62), corner=0.12)


def draw_chips(canvas: Canvas, agent: int, count: int, x: float) -> None:
    """Draw stacks of five chips around x."""
    stacks = -(-count // 5)
    for k in range(count):
        u, v = x + 0.66 * (k // 5 - (stacks - 1) / 2), CHIPS_Y[agent] + 0.085 * (k % 5)
        canvas.circle(u, v - 0.05, 0.3, tuple(c * 6 // 10 for c in CHIPS[agent]))
        canvas.circle(u, v, 0.3, CHIPS[agent])
        for turn in range(6):
            a = math.pi * turn / 3 + 0.4 * (k % 5)
            edge = [(u + r * math.cos(a), v + r * math.sin(a)) for r in (0.24, 0.27)]
            canvas.line(edge, WHITE, 0.07)
        canvas.circle(u, v, 0.17, CHIPS[agent], translucent(WHITE, 0.75), 0.025)


def draw_hand(canvas: Canvas, agent: int, rank: str, suit: int, to_move: bool, won: bool, folded: bool) -> None:
    """Draw a player's card: with a narrow border if it is to move, a wide one if it has won, pale if it has folded."""
    draw_card(canvas, 4, HAND_Y[agent], rank, suit, 0.1 if won else 0.045 if to_move else 0.0, folded)


def draw_speech_bubble(canvas: Canvas, agent: int, word: str) -> None:
    """Write the name of a player's last action beside its card."""
    y = HAND_Y[agent]
    canvas.polygon([(3.0, y + 0.14), (3.0, y - 0.14), (3.28, y)], WHITE)
    canvas.rectangle(2.42, y, 1.3, 0.56, WHITE, corner=0.28)
    canvas.text(2.42, y, word, 0.34, INK)
