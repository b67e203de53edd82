"""Benchmarks: the lab and installed peers on the same work, taking turns; and how long a world takes to be solved."""
