"""URLs in configurations and messages: which text is one, and how to show it without its secrets.

https://user:password@host/a.jsonl?X-Amz-Signature=5f3c  ──redact──▶
https://***@host/a.jsonl?X-Amz-Signature=***

What is shown to people goes through common/redaction.py, which knows other secrets too.
"""

import itertools
import re
from urllib.parse import unquote

HIDDEN = "***"

# Of bounded length: in a long text without spaces an unbounded one is looked for in quadratic time.
_SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.\-]{0,40}://")
_URL = re.compile(
    # User information may hold an apostrophe.
    _SCHEME.pattern + r"(?:[^\s/?#@\"<>`]*@(?=[^\s\"'<>`]))?[^\s\"'<>`]+"
)
_QUERY = re.compile("[?#]")
_PAGE = re.compile(
    r"/[a-z-]+(/[\w-]{1,40})*"
    r"(\?(viewStateShareKey=[\w%.-]{1,150}&)?workflowType=\w+(&compareRunsMode=\w+)?)?"
)
"""Fragment that names a page: MLflow's `#/experiments/3`, with or without the name of a view."""
_UNQUOTED_PASSWORD = re.compile(
    r"://[^\s/?#@:\"'<>`]{0,100}:((?=[^@\n]{0,200}[\s\"'<>`])[^@\n]{4,200})@(?=[^\s/?#@])"
)
"""A password with characters that end a URL: no valid URL, but what somebody has typed."""
_SIGNATURES = re.compile(r"(x-(amz|goog)-)?signature|sig", re.IGNORECASE)
_SIGNED = re.compile(
    r"x-(amz|goog|ms)-.*|awsaccesskeyid|googleaccessid|signature|sig|expires|policy|key-pair-id"
    r"|s[eprtv]|spr|sk[a-z]+",
    re.IGNORECASE,
)
"""Query parameters that go with a signature and change from day to day."""
_SECRET_PARAMETER = re.compile(
    r"(x-(amz|goog|ms)-)?(signature|credential|security-token)|sig|.*(token|password|passwd|secret)"
    r"|(api|access|secret|private|auth)?[-_]?key|awsaccesskeyid|googleaccessid|auth|code|pwd",
    re.IGNORECASE,
)
"""Query parameters whose values are secret wherever they stand."""


def is_url(location: str) -> bool:
    """True if a location is a URL (`s3://…`, `https://…`) and no path."""
    return _SCHEME.match(location) is not None


def scheme(url: str) -> str:
    """The protocol of a URL, in small letters."""
    return url.partition("://")[0].lower()


def redact(text: str, *locations: str) -> str:
    """A text with every secret of the URLs in it, and of `locations`, replaced by `***`.

    Secrets are user names and passwords before an `@`, and all values of a query: which of them
    are harmless cannot be known.
    """
    if "://" in text:
        text = _URL.sub(lambda found: "".join(map(_shown, _several(found.group()))), text)
    for secret in sorted({s for at in locations for s in _secrets(at)}, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return text


def secrets_of(text: str) -> set[str]:
    """Passwords, tokens and signatures of the URLs in a text, as written and with `%XX` resolved.

    User names are none unless they stand alone (a token in a user's place), and of a query only
    parameters that are known to be secret.
    """
    found: set[str] = set()
    for url in (part for item in _URL.findall(text) for part in _several(item)):
        _, userinfo, _, _, query, _ = _split(url)
        user, colon, password = userinfo.partition(":")
        found.add(password if colon else user)
        for item in query:
            name, _, value = item.partition("=")
            if _SECRET_PARAMETER.fullmatch(unquote(name)):
                found.add(value)
    found |= set(_UNQUOTED_PASSWORD.findall(text))
    return {form for secret in found for form in (secret, unquote(secret)) if form}


def identity(url: str) -> str:
    """A URL without its credentials, without a signature and what goes with it."""
    scheme, _, authority, path, query, fragment = _split(url)
    names = [item.partition("=")[0] for item in query]
    if any(_SIGNATURES.fullmatch(name) for name in names):
        query = [q for q, name in zip(query, names, strict=True) if not _SIGNED.fullmatch(name)]
    return f"{scheme}{authority}{path}?{'&'.join(query)}#{fragment}"


def _several(url: str) -> list[str]:
    """The URLs of a text without spaces: `https://a/x,https://b/y` are two."""
    query = _QUERY.search(url)  # what stands in one is a value of it
    place = url.index("://") + 3, query.start() if query else len(url)
    starts = [0, *(found.start() for found in _SCHEME.finditer(url, *place)), len(url)]
    return [url[start:end] for start, end in itertools.pairwise(starts)]


def _shown(url: str) -> str:
    scheme, userinfo, authority, path, query, fragment = _split(url)
    shown = f"{scheme}{HIDDEN + '@' if userinfo else ''}{authority}{path}"
    if query:
        names = [item.partition("=")[0] + "=" if "=" in item else "" for item in query]
        shown += "?" + "&".join(name + HIDDEN for name in names)
    if fragment and not _PAGE.fullmatch(fragment):
        fragment = HIDDEN
    return f"{shown}#{fragment}" if fragment else shown


def _split(url: str) -> tuple[str, str, str, str, list[str], str]:
    """(scheme://, user information, host, path, query items, fragment) of any URL, however odd."""
    start = url.index("://") + 3
    scheme, rest = url[:start], url[start:]
    userinfo = ""
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    port = authority.rpartition(":")[2]
    if "@" not in authority and ":" in authority and not port.isdigit() and "@" in rest:
        # A password with /, ? or # in it: no valid URL, but no reason to show it either.
        before = re.split("[?#]", rest, maxsplit=1)[0]
        userinfo, _, rest = (before if "@" in before else rest).rpartition("@")
        rest += url[len(scheme) + len(userinfo) + 1 + len(rest) :]
    rest, _, fragment = rest.partition("#")
    rest, _, query = rest.partition("?")
    authority, slash, path = rest.partition("/")
    if not userinfo:
        userinfo, _, authority = authority.rpartition("@")
    items = re.split("[&;]", query) if query else []
    return scheme, userinfo, authority, slash + path, items, fragment


def _secrets(location: str) -> set[str]:
    """Parts of a location that must never be shown, as written and with `%XX` resolved."""
    if not is_url(location):
        return set()
    _, userinfo, _, _, query, fragment = _split(location)
    found = {
        userinfo,
        fragment,
        userinfo.partition(":")[2],
        *(item.partition("=")[2] for item in query),
    }
    found |= {unquote(secret) for secret in found}
    return {secret for secret in found if len(secret) >= 4}
