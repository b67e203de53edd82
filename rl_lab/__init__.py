"""rl_lab: worlds written as scalar Python, stepped at compiled speed, trained, measured and filmed.

`train`, `load` and `evaluate` are the Python interface (`rl_lab.api`), which is imported when it is first used.
Importing rl_lab registers every world with Gymnasium as `rl_lab/<name>-v0`; `gym.make("rl_lab:rl_lab/<name>-v0")`
imports it by itself.
"""

from pathlib import Path as _Path
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

if _TYPE_CHECKING:
    from rl_lab.api import evaluate as evaluate
    from rl_lab.api import load as load
    from rl_lab.api import train as train

# In a clone, `envs`, `agents` and `scenarios` lie beside this package. Python that is started there finds this file
# before an installed package, which has them inside.
_package = _Path(__file__).parent
if not (_package / "envs").is_dir():
    __path__.append(str(_package.parent))

from rl_lab.adapters.registration import register as _register  # noqa: E402

_register()

_API = ("evaluate", "load", "train")


def __getattr__(name: str) -> _Any:
    if name not in _API:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from rl_lab import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_API})
