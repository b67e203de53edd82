"""This package checks worlds and third-party environments (`rl-lab check`), and this machine (`rl-lab doctor`).

A check of a world is a property: a function that returns findings, one line for each mistake. `suite` lists the
properties of worlds and runs them; they are in `rules`, `world` and `interfaces`, and share `subject`. `third_party`
has those of environments with Gymnasium's or PettingZoo's API, which `env_driver` plays.
"""
