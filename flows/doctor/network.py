"""The hub or its mirror, and the machine's clock against theirs."""

import email.utils
import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from common.redaction import redact
from flows.doctor.finding import Finding, note, ok, problem

SECONDS = 4.0
"""Longest wait for an answer."""
MOST_SKEW = 120.0
"""Seconds by which the clock may differ: beyond, certificates and tokens are refused."""
HUB = "https://huggingface.co"
MODELSCOPE = "https://modelscope.cn"
MIRROR = "export HF_ENDPOINT=https://hf-mirror.com"


def findings(*, offline: bool = False) -> Iterator[Finding]:
    """Findings about hubs and the clock. offline: nobody is asked."""
    said = next((n for n in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE") if _is_on(n)), "")
    if time.time() < 1_700_000_000:
        date = time.strftime("%F")
        yield problem("network", f"the clock says {date}", "timedatectl set-ntp true")
    if offline or said:
        why = f"{said} is set" if said else "--offline"
        yield note("network", f"hubs are not asked ({why}): data come from this machine's disks")
        return
    hub = (os.environ.get("HF_ENDPOINT") or HUB).rstrip("/")
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(ask, (hub, MODELSCOPE)))
    reached = [name for name, answer in zip((hub, MODELSCOPE), answers, strict=True) if answer[0]]
    for name, (reaches, why, _) in zip((hub, MODELSCOPE), answers, strict=True):
        if reaches:
            yield ok("network", f"{redact(name)} answers")
        elif reached:
            yield note(
                "network",
                f"{redact(name)} is not reached ({why})",
                MIRROR if name == HUB else "name other locations than `modelscope`",
            )
        else:
            yield note(
                "network",
                f"{redact(name)} is not reached ({why}): corpora must lie on this machine",
                f"{MIRROR}, or HTTPS_PROXY, or export HF_HUB_OFFLINE=1",
            )
    for _, _, theirs in answers:
        if theirs is not None:
            skew = time.time() - theirs
            if abs(skew) > MOST_SKEW:
                late = "fast" if skew > 0 else "slow"
                yield problem(
                    "network", f"the clock is {abs(skew):,.0f} s {late}", "timedatectl set-ntp true"
                )
            else:
                yield ok("network", "the clock is right")
            break


def ask(url: str) -> tuple[bool, str, float | None]:
    """(True if a server answers, else why not, the time that it says)."""
    asked = urllib.request.Request(url, method="HEAD", headers={"User-Agent": "steel-doctor"})
    try:
        with urllib.request.urlopen(asked, timeout=SECONDS) as response:
            return True, "", _time(response.headers.get("Date"))
    except urllib.error.HTTPError as error:
        answers = error.code < 500
        return answers, f"it answers {error.code}", _time(error.headers.get("Date"))
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        return False, redact(str(reason))[:120] or type(error).__name__, None


def _time(text: str | None) -> float | None:
    try:
        return email.utils.parsedate_to_datetime(text).timestamp() if text else None
    except (TypeError, ValueError):
        return None


def _is_on(name: str) -> bool:
    return os.environ.get(name, "").strip().lower() in ("1", "true", "yes", "on")
