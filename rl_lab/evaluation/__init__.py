"""Measures agents: episodes at fixed seeds, statistics, exploitability, videos."""
