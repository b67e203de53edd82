"""Tournaments: who meets whom, matches that come out the same wherever they are played, and the ledger of them all."""
