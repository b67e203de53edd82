"""This package computes ratings of players from results of matches, with confidence intervals and game theory.

All functions are pure. `results` converts matches to arrays; `tables` returns rows for JSON and the terminal.
"""
