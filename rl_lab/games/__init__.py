"""This package has game-theoretic computations for worlds of two agents that take turns.

`game_tree` builds the complete tree of a small game; `best_response`, `sequence_form` and `tabular_policy` compute
exact values on it. `search` has agents that look ahead in games of any size.
"""
