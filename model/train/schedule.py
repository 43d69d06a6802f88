"""The learning rate as a function of the step: no state, so resuming needs none.

rate   cosine  /‾‾\\__      wsd  /‾‾‾‾\\      constant  /‾‾‾‾‾‾
              /     \\_          /      \\              /
step   0     w        N        0 w   N-d N            0 w     N
"""

import math

from model.train.config import PretrainSettings


def learning_rate(settings: PretrainSettings, step: int, total_steps: int) -> float:
    """Learning rate of the step with number `step` (0-based) of `total_steps`.

    With w = warmup_steps and lr, lo = learning_rate, min_learning_rate:

    - warm-up, step < w: lr (step + 1) / w, so that the first step already moves the weights.
    - cosine (section 5): lo + (lr - lo) (1 + cos(pi t)) / 2, t = (step - w) / (total - w).
    - wsd (Hu et al. 2024, arXiv 2404.06395): lr, then linearly to lo over the last
      `decay_fraction` of all steps.
    - constant: lr.
    """
    high, low, warmup = settings.learning_rate, settings.min_learning_rate, settings.warmup_steps
    if step < warmup:
        return high * (step + 1) / warmup
    if settings.schedule == "cosine":
        done = min(1.0, (step - warmup) / max(1, total_steps - warmup))
        return low + (high - low) * 0.5 * (1.0 + math.cos(math.pi * done))
    if settings.schedule == "wsd":
        decay_steps = max(1, round(settings.decay_fraction * total_steps))
        left = min(1.0, max(0.0, (total_steps - step) / decay_steps))
        return low + (high - low) * left
    return high
