"""Tournaments: schedules of matches, matches with the same results on all machines, and the ledger that keeps them."""
