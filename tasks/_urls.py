"""URLs in configurations and messages: which text is one, and how to show it without its secrets.

https://user:password@host/a.jsonl?X-Amz-Signature=5f3c  ──redact──▶
https://***@host/a.jsonl?X-Amz-Signature=***
"""

import re
from urllib.parse import unquote

HIDDEN = "***"

_SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.\-]*://")
_URL = re.compile(_SCHEME.pattern + r"[^\s\"'<>`]+")
_PASSING = re.compile(
    r"x-(amz|goog|ms)-.*|awsaccesskeyid|googleaccessid|signature|sig|expires|policy|key-pair-id"
    r"|s[eprtv]|spr|sk[a-z]+|.*token.*|.*password.*|.*secret.*|.*key|auth.*",
    re.IGNORECASE,
)
"""Query parameters that grant access and change from day to day; others say what is asked for."""


def is_url(location: str) -> bool:
    """Whether a location is a URL (`s3://…`, `https://…`) and no path."""
    return _SCHEME.match(location) is not None


def redact(text: str, *locations: str) -> str:
    """A text with every secret of the URLs in it, and of `locations`, replaced by `***`.

    Secrets are user names and passwords before an `@`, and all values of a query: which of them
    are harmless cannot be known.
    """
    text = _URL.sub(lambda found: _shown(found.group()), text)
    for secret in sorted({s for at in locations for s in _secrets(at)}, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return text


def identity(url: str) -> str:
    """What a URL points at: without credentials, without the parameters of a signature."""
    scheme, _, authority, path, query = _split(url)
    kept = [item for item in query if not _PASSING.fullmatch(item.partition("=")[0])]
    return f"{scheme}{authority}{path}?{'&'.join(kept)}"


def _shown(url: str) -> str:
    scheme, userinfo, authority, path, query = _split(url)
    shown = f"{scheme}{HIDDEN + '@' if userinfo else ''}{authority}{path}"
    if query:
        values = (
            name + "=" if equals else "" for name, equals, _ in (q.partition("=") for q in query)
        )
        shown += "?" + "&".join(f"{value}{HIDDEN}" for value in values)
    return shown


def _split(url: str) -> tuple[str, str, str, str, list[str]]:
    """(scheme://, user information, host, path, query items) of a URL, however odd it is."""
    start = url.index("://") + 3
    scheme, rest = url[:start], url[start:]
    rest, _, query = rest.partition("?")
    query = query.partition("#")[0]
    rest = rest.partition("#")[0]
    authority, slash, path = rest.partition("/")
    port = authority.rpartition(":")[2]
    if "@" not in authority and ":" in authority and not port.isdigit() and "@" in path:
        # A password with a slash in it: no valid URL, but no reason to show it either.
        authority, slash, path = rest, "", ""
    userinfo, _, host = authority.rpartition("@")
    return scheme, userinfo, host, slash + path, re.split("[&;]", query) if query else []


def _secrets(location: str) -> set[str]:
    """What of a location must never be shown, as written and with `%XX` resolved."""
    if not is_url(location):
        return set()
    _, userinfo, _, _, query = _split(location)
    found = {userinfo, userinfo.partition(":")[2], *(item.partition("=")[2] for item in query)}
    found |= {unquote(secret) for secret in found}
    return {secret for secret in found if len(secret) >= 4}
