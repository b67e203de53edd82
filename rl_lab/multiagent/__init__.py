"""Training against opponents, training several policies together, and matches between agents of one world."""
