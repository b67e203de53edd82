"""Loops that are compiled once for each world."""
