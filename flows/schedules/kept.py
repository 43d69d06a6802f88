"""A deployment as prefect.yaml has it, with what was changed on the server since.

             before: prefect.yaml as it was registered last
            ╱                                              ╲
    now: what the server has                       shipped: prefect.yaml as it is
            ╲                                              ╱
             merged: a value that differs from `before` on the server was changed there, and stays;
                     any other is the shipped one

Without `before` (registered by a version that did not write it down) what the server has stays,
but for the description and for schedules that were shipped then.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

FIELDS: Mapping[str, Any] = {
    "description": None,
    "paused": False,
    "concurrency_limit": None,
    "parameters": {},
    "job_variables": {},
    "tags": [],
    "schedules": [],
}
"""Fields of a deployment that can be changed on a server, and their values where none is given."""

FORMER = (
    {"slug": "nightly", "cron": "0 2 * * *", "timezone": "UTC", "active": False},
    {"slug": "weekly", "cron": "0 1 * * 0", "timezone": "UTC", "active": False},
)
"""Schedules that were shipped before what is registered was written down."""

Deployment = Mapping[str, Any]


def shipped_fields(deployment: Deployment) -> dict[str, Any]:
    """The fields of a deployment in prefect.yaml."""
    pool = deployment.get("work_pool") or {}
    given = {**deployment, "job_variables": pool.get("job_variables")}
    fields = {name: copy.deepcopy(given.get(name) or default) for name, default in FIELDS.items()}
    fields["schedules"] = [_shipped_schedule(one) for one in fields["schedules"]]
    return fields


def server_fields(deployment: Deployment) -> dict[str, Any]:
    """The fields of a deployment as Prefect's API answers them."""
    limit = deployment.get("global_concurrency_limit") or {}
    given = {**deployment, "concurrency_limit": limit.get("limit")}
    options = deployment.get("concurrency_options")
    if given["concurrency_limit"] is not None and options:
        given["concurrency_limit"] = {"limit": given["concurrency_limit"], **options}
    fields = {name: copy.deepcopy(given.get(name) or default) for name, default in FIELDS.items()}
    fields["schedules"] = [_server_schedule(one) for one in fields["schedules"]]
    return fields


def _shipped_schedule(schedule: Mapping[str, Any]) -> dict[str, Any]:
    return {"active": True, "parameters": {}, **schedule}


def _server_schedule(schedule: Mapping[str, Any]) -> dict[str, Any]:
    timing = {key: value for key, value in schedule["schedule"].items() if value is not None}
    if timing.get("day_or") is True:  # the default
        del timing["day_or"]
    found = {"active": schedule["active"], "parameters": schedule.get("parameters") or {}, **timing}
    return {"slug": schedule["slug"], **found} if schedule.get("slug") else found


def merge(
    shipped: Mapping[str, Any], before: Mapping[str, Any] | None, now: Mapping[str, Any] | None
) -> tuple[dict[str, Any], list[str]]:
    """The fields of a deployment to register, and words for what is kept of the server's.

    Args:
        shipped: of prefect.yaml.
        before: of prefect.yaml when it was registered last; None: not known.
        now: of the server; None: it has no such deployment.
    """
    if now is None:
        return dict(shipped), []
    merged: dict[str, Any] = {}
    kept: list[str] = []
    for name in ("description", "paused", "concurrency_limit"):
        changed = now[name] != before[name] if before is not None else name != "description"
        merged[name] = now[name] if changed else shipped[name]
        if merged[name] != shipped[name]:
            value = merged[name]
            kept.append(name if isinstance(value, str) else f"{name.replace('_', ' ')} {value}")
    for name in ("parameters", "job_variables"):
        merged[name], changed_keys = _merge_keys(shipped[name], before and before[name], now[name])
        if changed_keys:
            kept.append(f"{name.replace('_', ' ')} {', '.join(changed_keys)}")
    merged["tags"] = _merge_tags(shipped["tags"], before["tags"] if before else None, now["tags"])
    if set(merged["tags"]) != set(shipped["tags"]):
        kept.append("tags")
    known_schedules = FORMER if before is None else before["schedules"]
    merged["schedules"], words = _merge_schedules(
        shipped["schedules"], [_shipped_schedule(s) for s in known_schedules], now["schedules"]
    )
    return merged, kept + words


_ABSENT = object()


def _merge_keys(
    shipped: Mapping[str, Any], before: Mapping[str, Any] | None, now: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    merged, kept = {}, []
    for key in dict.fromkeys([*shipped, *now, *(before or {})]):
        there = now.get(key, _ABSENT)
        known = _ABSENT if before is None else before.get(key, _ABSENT)
        changed = there != known
        if before is None and there is _ABSENT:  # not known if it was ever there
            changed = False
        value = there if changed else shipped.get(key, _ABSENT)
        if value is not _ABSENT:
            merged[key] = value
        if value != shipped.get(key, _ABSENT):
            kept.append(key)
    return merged, kept


def _merge_tags(
    shipped: Sequence[str], before: Sequence[str] | None, now: Sequence[str]
) -> list[str]:
    known = set(now) & set(shipped) if before is None else set(before)
    added, removed = set(now) - known, known - set(now)
    return list(dict.fromkeys([*(t for t in shipped if t not in removed), *sorted(added)]))


def _merge_schedules(
    shipped: Sequence[Mapping[str, Any]],
    before: Sequence[Mapping[str, Any]],
    now: Sequence[Mapping[str, Any]],
) -> tuple[list[dict[str, Any]], list[str]]:
    """Schedules by their slugs; those without one were added by hand."""
    merged: list[dict[str, Any]] = []
    kept: list[str] = []
    known = {one["slug"]: one for one in before if "slug" in one}
    there = {one["slug"]: one for one in now if "slug" in one}
    new = {one["slug"]: one for one in shipped if "slug" in one}
    for slug, one in new.items():
        if slug not in there:
            if slug in known:
                kept.append(f"schedule {slug} removed")
            else:
                merged.append(dict(one))
            continue
        value, _ = _merge_keys(one, known.get(slug), there[slug])
        if slug in known and _timing(there[slug]) != _timing(known[slug]):
            # When it fires is one choice: no hour of the server's in a time zone of prefect.yaml.
            value = {k: v for k, v in value.items() if k not in _TIMING} | _timing(there[slug])
        merged.append(value)
        if value != one:
            kept.append(f"schedule {slug} {_words(value, one)}")
    for slug in there.keys() - new.keys():
        if there[slug] != known.get(slug):
            merged.append(dict(there[slug]))
            kept.append(f"schedule {slug} {'on' if there[slug]['active'] else 'off'}")
    by_hand = [dict(one) for one in now if "slug" not in one]
    if by_hand:
        kept.append(f"{len(by_hand)} schedule(s) added by hand")
    return merged + by_hand, kept


_TIMING = ("cron", "day_or", "interval", "anchor_date", "rrule", "timezone")


def _timing(schedule: Mapping[str, Any]) -> dict[str, Any]:
    return {key: schedule[key] for key in _TIMING if key in schedule}


def _words(value: Mapping[str, Any], shipped: Mapping[str, Any]) -> str:
    words = []
    if value["active"] != shipped["active"]:
        words.append("on" if value["active"] else "off")
    if _timing(value) != _timing(shipped):
        timing = value.get("cron") or value.get("interval") or value.get("rrule")
        words.append(f"{timing} {value.get('timezone', '')}".strip())
    if value["parameters"] != shipped["parameters"]:
        words.append("parameters")
    return ", ".join(words) or "changed"
