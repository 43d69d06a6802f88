"""Work that waits for other work: for devices (`devices.py`) or for a stage that is being made.

holder: progress.json in its folder ──▶ whom we wait for, how far, until when ──▶ log, Prefect
"""

from tasks.core.waiting.words import StageWait, tell_progress

__all__ = ["StageWait", "tell_progress"]
