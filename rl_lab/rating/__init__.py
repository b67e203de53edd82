"""Ratings: what results say about who is stronger, how surely, and how exact play compares.

Pure functions over plain data. `results` takes matches in; `tables` gives rows out.
"""
