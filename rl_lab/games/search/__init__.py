"""Minimax and Monte-Carlo tree search over states of a world."""
