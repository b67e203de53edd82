"""rl_lab: worlds written as scalar Python, stepped at compiled speed, trained, measured and filmed.

Importing it registers every world with Gymnasium as `rl_lab/<name>-v0`; `gym.make("rl_lab:rl_lab/<name>-v0")` imports
it by itself.
"""

from rl_lab.adapters.registration import register as _register

_register()
