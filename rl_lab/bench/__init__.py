"""Benchmarks of the lab and of installed peers on the same work, and of the time until a world is solved."""
