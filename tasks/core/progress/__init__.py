"""Progress of a stage in Prefect: lines of the log, a bar, the lines of its processes.

reporter.py     lines and the bar, at a pace that a month's run does not flood the database with
child_log.py    lines of rank 0 from the log of all ranks
"""

from tasks.core.progress.reporter import ProgressReporter

__all__ = ["ProgressReporter"]
