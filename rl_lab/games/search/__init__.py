"""This package has search agents: minimax and Monte Carlo tree search over copies of a world's state."""
