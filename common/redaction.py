"""Secrets kept out of all that is printed, logged or stored: the one redaction of the project.

    text ── redact ──▶ the same text with `***` in place of
                       URLs' users, passwords, queries      https://***@host/a?token=***
                       secret parameters in other text      url: /a?access_token=***
                       credentials of HTTP headers          Authorization: ***
                       values of secret environment         HF_TOKEN, AWS_SECRET_ACCESS_KEY, …
                       passwords seen in any URL before     `learn`, so that a part quoted alone
                                                            ("no user 'me' with 'pw'") is hidden too

It is applied where text leaves the process, not by each caller: `install` puts it in front of
standard output and error (prints, tracebacks, warnings) and into every log record; SteelError, the
manifests of the store, MLflow and Prefect use `redact` and `redacted`. docs/adr/0034
"""

import base64
import contextlib
import functools
import json
import logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Collection, Iterator, Mapping
from typing import Any, TextIO, TypeVar, cast
from urllib.parse import quote, quote_plus, unquote

from common import urls
from common.urls import HIDDEN, secrets_of

T = TypeVar("T")

SECRET_NAME = re.compile(
    r"(^|[_.-])(token|password|passwd|passphrase|pwd|pass|secret|secrets|credentials?|key|apikey"
    r"|pat|auth|signature|sas|dsn|connection_string)([_.-]?(id|value|string|b64|base64))?$",
    re.IGNORECASE,
)
"""Names of environment variables whose values are secret."""
NOT_SECRET_NAME = re.compile(
    r"^(PYTEST_|GPG_KEY$|SSH_AUTH_SOCK$|MLFLOW_TRACKING_AUTH$)|PUBLIC_?KEY|_FILE$|_PATH$",
    re.IGNORECASE,
)
SHORTEST_SECRET = 6
"""Characters; the value of a secret variable that is shorter would be found in ordinary words."""
SHORTEST_PASSWORD = 4
"""The same for variables that hold a password, and for passwords in URLs."""
LONGEST_WORD = 12
"""Letters; a password of fewer, and of nothing else, may be the name of a folder or of a stage."""
HARMLESS = frozenset({"true", "false", "none", "null", "default", "disabled", "enabled", "secret"})
"""Values of variables that say nothing."""

_PARAMETER = re.compile(
    r"""(?P<name>(?:(?<=[?&;])(?:key|sig|code|auth|token)
        |\b(?:x-[a-z]+-)?(?:access_?token|auth_?token|id_token|refresh_token|api_?key
        |secret_?(?:access_?)?key|access_?key(?:_?id)?|client_secret|password|passwd|passphrase
        |signature|credential|security-token|awsaccesskeyid|private_?token|hf_token))=)
        (?P<value>[^\s&;"'<>`,)\]}]+)""",
    re.IGNORECASE | re.VERBOSE,
)
_QUOTED = re.compile(
    r"""(?P<name>["'](?:access_?token|auth_?token|refresh_token|api_?key|secret|token
        |secret_?(?:access_?)?key|client_secret|password|passwd|passphrase|private_?token
        |(?:proxy-)?authorization|cookie|set-cookie|x-api-key)["']\s*:\s*)
        (?P<quote>["'])(?P<value>(?:\\.|(?!(?P=quote)).)+)(?P=quote)""",
    re.IGNORECASE | re.VERBOSE,
)
_HEADER = re.compile(
    r"\b(?P<name>(?:(?:proxy-)?authorization|x-api-key|set-cookie|cookie)\s*:\s*)"
    r"(?P<value>(?:(?:bearer|basic|digest|token|negotiate|aws4-hmac-sha256)\s+)?[^\s\"']+[^\r\n\"']*)",
    re.IGNORECASE,
)
_SCHEME_TOKEN = re.compile(  # a word of prose has neither a capital within nor a digit
    r"\b(?P<name>(?i:bearer|basic)\s+)(?P<value>(?=[\w.~+/=-]*[A-Z0-9=])[\w.~+/=-]{12,})"
)
_KNOWN_TOKENS = re.compile(
    r"\b(hf_[A-Za-z0-9]{16,}|pn[ub]_[A-Za-z0-9]{16,}|gh[pousr]_[A-Za-z0-9]{20,}"
    r"|glpat-[A-Za-z0-9_-]{16,}|AKIA[A-Z0-9]{16}|sk-(?=[a-z-]*[A-Z0-9])[A-Za-z0-9_-]{20,})"
)
"""Tokens that show by their form what they are."""

_learned: set[str] = set()


def redact(text: str) -> str:
    """A text with every secret in it replaced by `***`. Redacting twice changes nothing more."""
    if not text:
        return text
    text = urls.redact(text)
    if pattern := _known_secrets():
        text = pattern.sub(HIDDEN, text)
    if "=" in text:
        text = _PARAMETER.sub(_keep_name, text)
    if ":" in text:
        text = _HEADER.sub(_keep_name, text)
        text = _QUOTED.sub(lambda m: f"{m['name']}{m['quote']}{HIDDEN}{m['quote']}", text)
    text = _SCHEME_TOKEN.sub(_keep_name, text)
    return _KNOWN_TOKENS.sub(HIDDEN, text)


def redacted(value: T) -> T:
    """A value of mappings, lists and texts, with `redact` applied to every text, keys included."""
    if isinstance(value, str):
        return cast("T", redact(value))
    if isinstance(value, Mapping):
        return cast("T", {redacted(key): redacted(item) for key, item in value.items()})
    if isinstance(value, list):
        return cast("T", [redacted(item) for item in value])
    if isinstance(value, tuple) and type(value) is tuple:
        return cast("T", tuple(redacted(item) for item in value))
    return value


def recorded(record: Mapping[str, Any], *, as_they_are: Collection[str]) -> dict[str, Any]:
    """`redacted` for a record that programs read: some of its fields stay as they are."""
    return {key: item if key in as_they_are else redacted(item) for key, item in record.items()}


def learn(*texts: str) -> None:
    """Remember the passwords and tokens of the URLs in these texts: they are hidden from now on,
    also where they stand alone."""
    for text in texts:
        for secret in secrets_of(text):
            if len(secret) >= SHORTEST_PASSWORD:
                _learned.add(secret)


@contextlib.contextmanager
def hidden_in_errors() -> Iterator[None]:
    """Replace an error that quotes a secret by one that does not: whoever catches it may store it.

    Errors of a kind that the user can mend hold none (common/errors.py); their causes are dropped
    where they do.
    """
    try:
        yield
    except Exception as error:
        plain = "".join(traceback.format_exception(error))
        shown = redact(plain)
        if shown == plain:
            raise
        if redact(str(error)) == str(error) and redact(repr(error)) == repr(error):
            error.__cause__, error.__suppress_context__ = None, True
            raise
        raise RuntimeError(f"an error whose text held secrets, without them:\n{shown}") from None


def install() -> None:
    """Hide secrets in all that this process prints or logs from now on. Harmless when repeated."""
    _patch_streams()
    if not getattr(logging.getLogRecordFactory(), "hides_secrets", False):
        logging.setLogRecordFactory(_record_factory(logging.getLogRecordFactory()))
    for root in (logging.getLogger(), *_loggers()):
        for handler in root.handlers:
            _patch_handler(handler)
    warnings.formatwarning = _formatwarning


# ── secrets that are known by their value ────────────────────────────────────────────────────────


def _known_secrets() -> "re.Pattern[str] | None":
    """Pattern of all values that are secret in this process; None if there is none."""
    from_environment = [
        (name, value)
        for name, value in os.environ.items()
        if value and (is_secret_name(name) or "://" in value)
    ]
    return _pattern_of(tuple(from_environment), frozenset(_learned))


@functools.lru_cache(maxsize=4096)  # asked for every line that is printed
def is_secret_name(name: str) -> bool:
    """True for names of variables and parameters whose values are secret."""
    return bool(SECRET_NAME.search(name) and not NOT_SECRET_NAME.search(name))


@functools.lru_cache(maxsize=8)
def _pattern_of(
    environment: tuple[tuple[str, str], ...], learned: frozenset[str]
) -> "re.Pattern[str] | None":
    secrets = set(learned)
    for name, value in environment:
        if "://" in value:
            secrets |= {s for s in secrets_of(value) if len(s) >= SHORTEST_PASSWORD}
        if _is_secret(name, value.strip()):
            secrets.add(value.strip())
            # A private key is printed line by line; of `user:password` a part may stand alone.
            secrets |= {line for line in value.split("\n")[1:-1] if len(line) >= 16}
            if "auth" in name.lower() and ":" in value:
                secrets.add(value.strip().partition(":")[2])
    forms = {form for secret in secrets for form in _forms(secret)}
    if not forms:
        return None
    return re.compile("|".join(map(_found_as, sorted(forms, key=len, reverse=True))))


def _found_as(form: str) -> str:
    """Pattern of a form; a password that is an ordinary word is no part of a path or of a word."""
    if len(form) < LONGEST_WORD and form.isascii() and form.isalpha():
        return rf"(?<![\w./-]){form}(?![\w/-]|\.\w)"
    return re.escape(form)


def _is_secret(name: str, value: str) -> bool:
    if not is_secret_name(name) or value.lower() in HARMLESS:
        return False
    shortest = SHORTEST_PASSWORD if re.search("pass", name, re.I) else SHORTEST_SECRET
    # The path of a file of keys is none (a key may begin with a slash), and a number is any number.
    is_path = value.startswith("/") and os.path.exists(value)  # noqa: PTH110 - too long for a Path
    is_number = value.isdigit() and len(value) < 12
    return len(value) >= shortest and not is_path and not is_number


def _forms(secret: str) -> set[str]:
    """Ways in which programs write a secret: in URLs, in JSON, in Python, in base64."""
    forms = {
        secret,
        unquote(secret),
        quote(secret, safe=""),
        quote(secret),
        quote_plus(secret),
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        repr(secret)[1:-1],
        quote(secret, safe="").replace("%2F", "%2f"),
    }
    if len(secret) >= SHORTEST_SECRET:
        forms.add(base64.b64encode(secret.encode("utf-8", "surrogateescape")).decode())
    return {form for form in forms if len(form) >= SHORTEST_PASSWORD}


def _keep_name(found: "re.Match[str]") -> str:
    if found["value"].lower() in HARMLESS:
        return found.group()
    return f"{found['name']}{HIDDEN}"


# ── the exits ────────────────────────────────────────────────────────────────────────────────────


class RedactingStream:
    """A text stream that hides secrets in what is written; everything else is the stream's own."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write the text without its secrets; returns the length of what was given."""
        self._stream.write(redact(text))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write all lines as one text: a secret may be cut in two between them."""
        self.write("".join(lines))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __iter__(self) -> Any:
        return iter(self._stream)


def output() -> TextIO:
    """Standard output for data that a command was asked for (a document, an answer of a model):
    nothing in it is replaced."""
    stream = sys.stdout
    return stream._stream if isinstance(stream, RedactingStream) else stream


def _patch_streams() -> None:
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, RedactingStream):
            setattr(sys, name, RedactingStream(stream))


def _patch_handler(handler: logging.Handler) -> None:
    """Let a handler that was made before write to the stream that hides secrets."""
    if isinstance(handler, logging.StreamHandler):
        for stream in (sys.stdout, sys.stderr):
            if handler.stream is getattr(stream, "_stream", None):
                handler.stream = stream


def _loggers() -> list[logging.Logger]:
    known = list(logging.getLogger().manager.loggerDict.values())
    return [logger for logger in known if isinstance(logger, logging.Logger)]


def _record_factory(make: Any) -> Any:
    """Records whose message and traceback hold no secrets, whoever formats or sends them."""

    def factory(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record: logging.LogRecord = make(*args, **kwargs)
        try:
            message = record.getMessage()
        except Exception:  # wrong arguments: logging's own report of it is printed, and redacted
            return record
        shown = redact(message)
        if shown != message:
            record.msg, record.args = shown, ()
        if isinstance(record.exc_info, tuple) and record.exc_info[0] is not None:
            plain = "".join(traceback.format_exception(*record.exc_info)).rstrip("\n")
            shown = redact(plain)
            if shown != plain:  # handlers use this text where it is set already
                record.exc_text = shown
        return record

    factory.hides_secrets = True  # type: ignore[attr-defined]
    return factory


_plain_formatwarning = warnings.formatwarning


def _formatwarning(*args: Any, **kwargs: Any) -> str:
    return redact(_plain_formatwarning(*args, **kwargs))
