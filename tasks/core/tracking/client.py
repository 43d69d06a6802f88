"""Names and addresses of experiments in MLflow, and calls whose errors stop nothing."""

import functools
import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar, cast

from common.redaction import redact
from tasks.core.patience import Outage, within

if TYPE_CHECKING:  # MLflow takes a second or more of whoever imports the flows and records nothing
    from mlflow.tracking import MlflowClient

PIPELINES = "steel"
MODELS = "steel-models"
SPEED = "steel-speed"
NOTE = "mlflow.note.content"
"""Tag that MLflow shows as a run's or an experiment's description."""
BATCH = 900
"""Metrics a request; MLflow takes at most 1,000."""

CALL_SECONDS = 12.0
"""Longest wait for one call to a server, its attempts, DNS and all."""
UPLOAD_SECONDS = 120.0
"""The same for a call that sends files."""
UPLOADS = ("log_artifact", "log_model_artifacts")

HTTP = {
    # One call then waits for a few seconds; MLflow's own numbers would be seven retries of two
    # minutes, for each of some dozen calls a stage.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    # A server may ask for an hour.
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
    # A bar for each table, and two lines for each run, would bury the pipeline's own lines.
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
"""Settings of MLflow's client, where the user has set none."""
for _name, _value in HTTP.items():
    os.environ.setdefault(_name, _value)

log = logging.getLogger("steel.tracking")
P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")


class Unreachable(Exception):
    """An MLflow server that does not answer, or did not a moment ago; logged when it began."""


def never_fail(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R | None]:
    """Log what the tracker raises, once per method and message, and go on.

    The attribute `incomplete` of the method's object tells afterwards that something is missing.
    """
    seen: set[str] = set()

    @functools.wraps(method)
    def guarded(self: S, *args: P.args, **kwargs: P.kwargs) -> R | None:
        try:
            return method(self, *args, **kwargs)
        except Exception as error:
            self.incomplete = True  # type: ignore[attr-defined]
            message = message_of(error)
            if not isinstance(error, Unreachable) and message not in seen:
                seen.add(message)
                log.warning("MLflow did not take %s: %s", method.__name__, message)
            return None

    return cast("Callable[Concatenate[S, P], R | None]", guarded)


class Client:
    """MlflowClient whose calls to a server end within seconds, and pause while it is away.

        answers ──a call fails or takes too long──▶ away: calls raise Unreachable at once
           ▲                                          │
           └────── a call succeeds ◀── one attempt ◀──┘ after 60 s, 120 s, … 600 s

    A store on this machine's disk is called directly: it may take its time.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        local = uri.startswith(("sqlite:", "file:")) or "://" not in uri
        self.remote = not local or uri.startswith(("databricks", "uc"))
        self._outage = Outage()

    @property
    def away(self) -> bool:
        """True while the server does not answer."""
        return self._outage.away

    @functools.cached_property
    def _client(self) -> "MlflowClient":
        from mlflow.tracking import MlflowClient

        return MlflowClient(tracking_uri=self.uri)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        found = getattr(self._client, name)
        if not callable(found) or not self.remote:
            return found
        return functools.partial(self._call, name, found)

    def _call(self, name: str, method: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        if not self._outage.may_try():
            raise Unreachable
        limit = UPLOAD_SECONDS if name in UPLOADS else CALL_SECONDS
        try:
            result = within(limit, lambda: method(*args, **kwargs))
        except Exception as error:
            if not _is_refusal(error, http=self.uri.startswith("http")):
                self._mark_away(error)
                raise Unreachable from error
            self._mark_back()
            raise
        self._mark_back()
        return result

    def _mark_away(self, error: BaseException) -> None:
        if self._outage.failed():
            log.warning(
                "MLflow at %s does not take what is to be recorded (%s). The work goes on without "
                "it; stages, their numbers and their curves are recorded as soon as it answers, or "
                "by the next run.",
                redact(self.uri),
                message_of(error),
            )

    def _mark_back(self) -> None:
        if self._outage.worked():
            log.warning("MLflow at %s answers again", redact(self.uri))


def _is_refusal(error: BaseException, *, http: bool = True) -> bool:
    """True if a server, or a database, that works did not want this very call."""
    from mlflow.exceptions import MlflowException, RestException

    # Over HTTP only an answer in MLflow's own form comes from MLflow.
    if not isinstance(error, RestException if http else MlflowException):
        return False
    status = int(error.get_http_status_code())
    return 400 <= status < 500 and status not in (401, 403, 408, 429)


def message_of(error: BaseException) -> str:
    """One line for a log, without secrets."""
    # Cut after the secrets are gone: half a password would not be found.
    return redact(f"{type(error).__name__}: {' '.join(str(error).split())}")[:300]


def default_uri(store: Path) -> str:
    """The tracking URI: the user's MLFLOW_TRACKING_URI, else SQLite inside the store."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{store / 'mlflow' / 'mlflow.db'}"


def artifact_location(uri: str, store: Path, experiment: str) -> str | None:
    """Place of a new experiment's files: None leaves it to a server. Beside a database that is
    used without one it is in `MLFLOW_DEFAULT_ARTIFACT_ROOT`, or in the store."""
    if uri.startswith(("http://", "https://", "databricks", "uc")):
        return None
    if root := os.environ.get("MLFLOW_DEFAULT_ARTIFACT_ROOT", "").rstrip("/"):
        return f"{root}/{experiment}"
    return (store / "mlflow" / "artifacts" / experiment).resolve().as_uri()


def log_metrics(client: Any, run_id: str, metrics: Mapping[str, float]) -> None:
    """Log single values, in one request."""
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    batch = [Metric(name, float(value), now, 0) for name, value in metrics.items()]
    if batch:
        client.log_batch(run_id, metrics=batch)
