"""Output of a stage in Prefect: log lines and artifacts (progress/ has the bar).

Outside of a flow run (tests, scripts) lines go to the logger `steel` and artifacts nowhere. A
server that cannot take an artifact never stops a stage.
"""

import functools
import logging
import sys
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias

from common.errors import SteelError
from common.processes import RunStopped, interruptible, stopped, uninterrupted
from common.redaction import redacted
from tasks.core.patience import Outage, within

Logger: TypeAlias = "logging.Logger | logging.LoggerAdapter[logging.Logger]"


def flow_run_id() -> str | None:
    """Id of the flow run that this process works for; None outside of one."""
    if "prefect" not in sys.modules:
        return None
    from prefect.runtime import flow_run

    run_id: str | None = flow_run.id
    return run_id


def run_logger() -> Logger:
    """Prefect's logger inside a flow run, the logger `steel` outside (tests, scripts)."""
    if not flow_run_id():
        return logging.getLogger("steel")
    from prefect.logging import get_run_logger

    return get_run_logger()


COMPLETED = "Finished in state Completed()"


class _WithoutNoise(logging.Filter):
    """Drops the traceback of an error that the user can mend, which would bury the message, and the
    line of a state Completed: the line before says that the stage is done, and in what time."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.getMessage() == COMPLETED:
            return False
        if record.exc_info and isinstance(record.exc_info[1], SteelError):
            record.exc_info = None
            record.exc_text = None
        return True


def shorten_user_errors() -> None:
    """Let Prefect log a SteelError as its message alone, and what went well in our words."""
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logger = logging.getLogger(name)
        if not any(isinstance(f, _WithoutNoise) for f in logger.filters):
            logger.addFilter(_WithoutNoise())


def artifact_key(name: str) -> str:
    """Turn a name into an artifact key: lowercase letters, digits and dashes."""
    return "-".join("".join(c if c.isalnum() else " " for c in name.lower()).split())


ARTIFACT_SECONDS = 15.0
"""Longest wait for Prefect to take an artifact."""
_outage = Outage()

Kind = Literal["table", "markdown", "link", "progress", "new progress"]


def publish_artifact(
    log: Logger, kind: Kind, *, links: Mapping[str, str] | None = None, **kwargs: Any
) -> Any:
    """Create or update a Prefect artifact; a server that cannot take it never stops a stage.

    links: words of the Markdown -> addresses without secrets, which take their places whole; other
    addresses lose their queries.
    """
    if not flow_run_id() or not _outage.may_try():
        return None
    from prefect import artifacts

    create: dict[str, Any] = {
        "table": artifacts.create_table_artifact,
        "markdown": artifacts.create_markdown_artifact,
        "link": artifacts.create_link_artifact,
        "progress": artifacts.create_progress_artifact,
        "new progress": artifacts.update_progress_artifact,
    }
    try:
        shown = redacted(kwargs)
        for word, address in (links or {}).items():
            shown["markdown"] = shown["markdown"].replace(word, address)
        made = within(ARTIFACT_SECONDS, lambda: create[kind](**shown))
    except Exception as error:
        if _outage.failed():
            log.warning("Prefect did not take the artifact %s: %s", kwargs.get("key"), error)
        return None
    _outage.worked()
    return made


class StageTask:
    """A function that is called as a Prefect task; one that is asked to stop ends as Cancelled.

    The function is called as `work(config, context=…, label=…, **inputs)`; raises what it raises.
    """

    def __init__(self, name: str, work: Callable[..., Any], doc: str | None) -> None:
        self.name, self.work, self.doc = name, work, doc

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with uninterrupted():  # Prefect's own steps, which would take it for a crash
            result = self._task(*args, **kwargs)
            stop = stopped()
            if stop is not None and _is_state(result):
                raise stop
        return result

    @functools.cached_property
    def _task(self) -> Callable[..., Any]:
        # Imported late: who only reads or checks a configuration needs no Prefect.
        from prefect import task
        from prefect.cache_policies import NO_CACHE

        def work(config: Any, *, context: Any, label: str = "", **inputs: Any) -> Any:
            try:
                with interruptible():
                    return self.work(config, context=context, label=label, **inputs)
            except RunStopped as stop:
                # A state and no error: Prefect would report a crash.
                from prefect.states import Cancelled

                return Cancelled(message=stop.message)

        # Not functools.wraps: Prefect binds parameters by the signature that it would forward.
        work.__doc__ = self.doc
        # No Prefect caching: its key would know only this function's source and parameters.
        return task(
            name=self.name,
            task_run_name=_task_run_name,
            cache_policy=NO_CACHE,
            persist_result=False,
        )(work)


def _is_state(result: Any) -> bool:
    from prefect.client.schemas.objects import State

    return isinstance(result, State)


def _task_run_name() -> str:
    from prefect.runtime import task_run

    parameters = task_run.parameters or {}
    return f"{task_run.task_name} {parameters.get('label', '')}".strip()
