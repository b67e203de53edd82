"""How a scenario uses a backbone: the mode, the parts, and a learning rate of its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rl_lab.core.errors import nearest
from rl_lab.learners.pretraining.spec import PARTS, BackboneSpec, read_spec

MODES = ("frozen", "finetune", "frozen_then_finetune", "encoded")


@dataclass(frozen=True)
class BackboneSettings:
    """A scenario's `backbone`. `sha256` and `spec` are of the folder; they are empty before it has been looked up."""

    path: str
    sha256: str = ""
    mode: str = "finetune"
    parts: list[str] = field(default_factory=list)  # empty: all that the folder has and the agent can take
    learning_rate: float | None = None  # of the trunk; None: that of the agent
    freeze_steps: int = 0  # environment steps for which frozen_then_finetune leaves the trunk alone
    critic_warmup: int = 0  # environment steps for which only the value head learns
    kl_coef: float = 0.0  # weight, at first, of the divergence from the backbone's policy in the loss
    kl_steps: int = 0  # environment steps over which that weight falls to 0
    spec: dict[str, Any] = field(default_factory=dict)  # see `BackboneSpec.as_json`

    def check(self) -> None:
        """Raise ValueError, in one line, for settings out of range or that contradict each other."""
        if self.mode not in MODES:
            raise ValueError(f"mode={self.mode!r:.40}; {nearest(self.mode, MODES)}")
        for part in self.parts:
            if part not in PARTS:
                raise ValueError(f"parts: {part!r:.40}; {nearest(str(part), PARTS)}")
        if self.parts and "trunk" not in self.parts:
            raise ValueError("parts: a head without its trunk has no meaning: add trunk")
        if self.learning_rate is not None and not 0 <= self.learning_rate < 1e6:
            raise ValueError(f"backbone.learning_rate={self.learning_rate}: expected 0 or more")
        if self.mode in ("frozen", "encoded") and self.learning_rate is not None:
            raise ValueError(f"backbone.learning_rate is of a trunk that learns: leave it out with mode={self.mode}")
        for name in ("freeze_steps", "critic_warmup", "kl_steps", "kl_coef"):
            if not 0 <= getattr(self, name) <= 2**62:
                raise ValueError(f"backbone.{name}={getattr(self, name)}: expected 0 or more")
        if (self.kl_steps > 0) != (self.kl_coef > 0):
            raise ValueError("backbone.kl_coef=WEIGHT and backbone.kl_steps=STEPS go together")
        if (self.freeze_steps > 0) != (self.mode == "frozen_then_finetune"):
            raise ValueError("mode=frozen_then_finetune and backbone.freeze_steps=STEPS go together")

    def backbone_spec(self) -> BackboneSpec:
        """Return what the backbone is. Raises ValueError or KeyError for data that is no specification."""
        return read_spec(self.spec)
