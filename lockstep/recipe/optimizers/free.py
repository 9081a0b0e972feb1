"""What presets of several optimizers leave free: knob -> the library's own default, None where the
recipe's stays.
"""

from typing import Any

__all__ = ["AFTER_DECAY", "BETAS", "BETAS_DECAYED", "DECAYED", "TRAINED"]

TRAINED: dict[str, Any] = {"decay_on": None, "multipliers": None}
DECAYED: dict[str, Any] = TRAINED | {"weight_decay": 0.0}
BETAS: dict[str, Any] = TRAINED | {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8}
BETAS_DECAYED = BETAS | {"weight_decay": 0.0}
AFTER_DECAY = "; with a weight decay after add_decayed_weights"
