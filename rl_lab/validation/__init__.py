"""This package recomputes published values and exact values, for `rl-lab validate`.

`reference.json` lists the values with their sources, `reference_values` recomputes them, and `connect_four_solver` is
one of the computations.
"""
