"""The Python interface of the lab: `rl_lab.train`, `rl_lab.load` and `rl_lab.evaluate`.

They do what the commands of `rl-lab` do, with objects in place of text. `rl_lab/__init__.py` imports them when they are
first used, so that `import rl_lab` stays fast.
"""

from rl_lab.api.evaluation import EvaluationResult, evaluate
from rl_lab.api.run import TrainedRun, load, train
from rl_lab.api.video import Video

__all__ = ["EvaluationResult", "TrainedRun", "Video", "evaluate", "load", "train"]
