"""The commands of `steel`, one module for each group.

    pipeline.py   run, check, report, explain      a configuration and what came of it
    data.py       verify, verify-order             proofs about what lies in a store
    models.py     chat                             what to do with a trained model

A module's `add(commands)` declares its commands; each sets `run`, a function from the parsed
arguments to the exit code. Heavy imports stand inside these functions: `steel --help` is instant.
"""

DONE = 0
FAILED = 1
"""A stage could not finish, or a proof did not hold."""
BAD_INPUT = 2
"""The user can mend it; one message says how."""
