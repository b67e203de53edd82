"""Learners that play each other and their own past, which is kept."""
