"""Self-play of several learners against each other and against a pool of their earlier snapshots."""
