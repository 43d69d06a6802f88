"""The commands of `steel`, one module for each group.

    pipeline.py   run, check, report, explain      a configuration and its results
    ablations.py  kernel-ablation, ffn-ablation    runs that differ in one setting
    data.py       verify, verify-order             proofs about what lies in a store
    training.py   append, reschedule, profile      requests to a pretraining, running or stopped
    models.py     export, chat, import             models: ours, and published ones

A module's `add(commands)` declares its commands; each sets `run`, a function from the parsed
arguments to the exit code. Imports that take long stand inside these functions, so that
`steel --help` is instant.
"""

DONE = 0
FAILED = 1
"""A stage could not finish, or a proof did not hold."""
BAD_INPUT = 2
"""Input that the user can correct; one message says how."""

RENAMED = {"horizon": "reschedule"}
"""Old names of commands."""


def weights(texts: list[str]) -> dict[str, float]:
    """`SOURCE=EPOCHS` options as a mapping."""
    from common.errors import ConfigError

    weights = {}
    for text in texts:
        source, _, epochs = text.partition("=")
        try:
            weights[source] = float(epochs)
        except ValueError:
            raise ConfigError(f"--weight {text!r} must look like SOURCE=EPOCHS") from None
    return weights
