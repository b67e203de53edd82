"""This package plays tournaments: entrants meet in pairs of matches with equal seeds and swapped seats.

How a tournament runs, by module:

- `store` makes and reads the tournament's folder, `entrants` the entrants that a user names, `schedule` the matches.
- `runner` asks the schedule for missing matches, has `workers` play them, and adds the results to the `ledger`. All
  verbs of `rl-lab tournament` go through it, `compare` with a test that ends it early.
- `matches` plays in one process: a `MatchEngine` has the world and the agents, a `session` steps a batch of matches,
  and `entrant_calls` requests the actions.
- Entrants that are the user's code are contained: `code_loading`, `containment`, `entrant_guard`, `call_record`,
  `isolation`, `signal_filter`, `entrant_output`.
- `summary`, `report`, `replay` and `replay_frames` show results.
"""
