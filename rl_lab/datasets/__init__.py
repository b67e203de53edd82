"""Data sets of recorded episodes: Minari's format on disk, and flat memory-mapped arrays to train from."""
