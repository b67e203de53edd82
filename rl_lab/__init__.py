"""rl_lab: worlds written as scalar Python, stepped at compiled speed, trained, measured and filmed.

Importing it registers every world with Gymnasium as `rl_lab/<name>-v0`; `gym.make("rl_lab:rl_lab/<name>-v0")` imports
it by itself.
"""

from pathlib import Path as _Path

# In a clone, `envs`, `agents` and `scenarios` lie beside this package. Python that is started there finds this file
# before an installed package, which has them inside.
_package = _Path(__file__).parent
if not (_package / "envs").is_dir():
    __path__.append(str(_package.parent))

from rl_lab.adapters.registration import register as _register  # noqa: E402

_register()
