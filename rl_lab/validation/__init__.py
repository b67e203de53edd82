"""This package recomputes published values and exact values, for `rl-lab validate`."""
