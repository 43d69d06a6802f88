"""Requests to a training run: small files that its trainer takes at a step boundary.

    RUN/requests/01763900000123456789-append-1f3a….json    pending
    RUN/requests/refused/01763…-append-….json              with the reason inside

The client publishes a file in one rename; only rank 0 of the run removes it, after the change is in
the run's journal, or moves it to refused/. A file survives a kill of either side. Names sort in the
order of publication.
"""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

from common.config import from_plain
from common.errors import DataError, SteelError, shown
from common.files import digest_of, write_json
from common.ranges import Epochs, Ge, Limit, Seed, Steps
from common.reading.files import read_json_object
from model.train.run.folder import REFUSED_FOLDER, REQUESTS_FOLDER
from model.train.run.lease import Lease
from model.train.run.length import LengthPolicy

SCHEMA_VERSION = 1

MAX_BYTES = 1 << 20
"""Bytes of a request: its largest part are weights by source."""


@dataclass(frozen=True, kw_only=True)
class AppendRequest:
    """Train on more data from some step on."""

    KIND: ClassVar[str] = "append"

    folder: str
    """Absolute path of the folder of packed shards."""
    manifest: str
    """Digest of the manifest there."""
    seed: Seed
    """Seed of the order from there on."""
    weights: Mapping[str, Epochs] = field(default_factory=dict)
    """Epochs per source of the new data; 1 where not named."""
    steps: LengthPolicy = "keep"
    """keep the run's number of steps, or extend it by those of the new samples."""
    at_step: Steps | None = None
    """Completed steps at which the data join; None: as soon as the trainer sees this."""


@dataclass(frozen=True, kw_only=True)
class RescheduleRequest:
    """Move the end of the run, or let the decay of the learning rate begin."""

    KIND: ClassVar[str] = "reschedule"

    steps: Steps | None = None
    """New number of steps of the whole run; None: as it is."""
    decay_at: Steps | Literal["now"] | None = None
    """Step from which the rate falls; None: as it is."""
    at_step: ClassVar[None] = None


@dataclass(frozen=True, kw_only=True)
class ProfileRequest:
    """Trace the next steps; changes nothing that is learned, so the journal has no entry of it."""

    KIND: ClassVar[str] = "profile"

    num_steps: Annotated[int, Ge(1), Limit(1000)] = 3
    """Steps in the trace, 1 or more."""
    at_step: ClassVar[None] = None


Request = AppendRequest | RescheduleRequest | ProfileRequest


@dataclass(frozen=True, kw_only=True)
class PendingRequest:
    """A request that lies in the folder."""

    name: str
    """Its file's name without the suffix."""
    request: Request | None
    """None when the file cannot be understood."""
    problem: str = ""
    """Reason why it cannot."""


class RequestFolder:
    """Requests of one run. `run` is the folder that the trainer writes to."""

    def __init__(self, run: Path) -> None:
        self.folder = run / REQUESTS_FOLDER
        self._read: dict[str, PendingRequest] = {}

    def publish(self, request: Request) -> str:
        """Publish a request and return its name. Durable when this returns."""
        content = {
            "schema_version": SCHEMA_VERSION,
            "kind": request.KIND,
            "request": asdict(request),
        }
        name = f"{time.time_ns():020d}-{request.KIND}-{digest_of(content)[:8]}"
        write_json(self.folder / f"{name}.json", content)
        return name

    def names(self) -> list[str]:
        """Names of all pending requests, in the order of publication."""
        try:
            return sorted(p.stem for p in self.folder.iterdir() if p.suffix == ".json")
        except FileNotFoundError:
            return []

    def pending(self) -> list[PendingRequest]:
        """Requests that are not done yet, in the order of publication.

        A look at an unchanged folder costs one listing: files never change and are read once.
        """
        self._read = {name: self._read.get(name) or self._parse(name) for name in self.names()}
        return list(self._read.values())

    def remove(self, name: str, lease: Lease) -> None:
        """Remove a request that is done; for the session that has the run's lease."""
        lease.remove(self.folder / f"{name}.json")

    def refuse(self, name: str, reason: str, lease: Lease) -> None:
        """Move a request aside, with the reason why it was not done; for that session."""
        path = self.folder / f"{name}.json"
        try:
            content = read_json_object(path, limit=MAX_BYTES)
        except SteelError:
            content = None
        refused = self.folder / REFUSED_FOLDER / path.name
        lease.write_json(refused, {"reason": reason, "request": content})
        lease.remove(path)

    def refused(self) -> dict[str, str]:
        """Reason of each refusal, by the name of the request."""
        found = sorted((self.folder / REFUSED_FOLDER).glob("*.json"))
        return {p.stem: str(read_json_object(p).get("reason", "")) for p in found}

    def _parse(self, name: str) -> PendingRequest:
        path = self.folder / f"{name}.json"
        try:
            raw = read_json_object(path, limit=MAX_BYTES)
            return PendingRequest(name=name, request=parse_request(raw))
        except SteelError as error:
            return PendingRequest(name=name, request=None, problem=f"{path} is no request: {error}")


def parse_request(raw: Any) -> Request:
    """Parse a request's JSON. Raises DataError or ConfigError naming what is wrong."""
    if not isinstance(raw, dict) or raw.get("schema_version") != SCHEMA_VERSION:
        raise DataError(f"its schema_version must be {SCHEMA_VERSION}")
    kinds: dict[str, type[Request]] = {kind.KIND: kind for kind in get_args(Request)}
    if not isinstance(raw.get("kind"), str) or raw["kind"] not in kinds:
        raise DataError(f"its kind {shown(raw.get('kind'))} is none of {', '.join(kinds)}")
    return from_plain(kinds[raw["kind"]], raw.get("request"), "request")
