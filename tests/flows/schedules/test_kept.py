"""Changes made on a server stay when prefect.yaml is registered again, new or not."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.schedules.kept import FORMER, merge, server_fields, shipped_fields

NIGHTLY = {"slug": "nightly-evaluation", "cron": "0 2 * * *", "timezone": "UTC", "active": False}


def shipped(**changes: Any) -> dict[str, Any]:
    given = {
        "name": "evaluate-checkpoints",
        "description": "Measures checkpoints.",
        "tags": ["steel"],
        "parameters": {"config": "smoke.yaml", "watch": True},
        "schedules": [{**NIGHTLY, "parameters": {"watch": False}}],
        "work_pool": {"name": "steel", "job_variables": {"stream_output": False}},
    }
    return shipped_fields({**given, **changes})


def on_server(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields as the API answers them, read again."""
    schedules = [
        {
            "id": str(number),
            "slug": one.get("slug"),
            "active": one["active"],
            "parameters": one["parameters"],
            "schedule": {
                "day_or": True,
                **{k: v for k, v in one.items() if k not in ("slug", "active", "parameters")},
            },
        }
        for number, one in enumerate(fields["schedules"])
    ]
    limit = fields["concurrency_limit"]
    return server_fields(
        {**fields, "schedules": schedules, "global_concurrency_limit": limit and {"limit": limit}}
    )


def test_what_nobody_touched_is_what_is_shipped() -> None:
    old, new = shipped(), shipped(description="Better words.", tags=["steel", "scores"])
    assert merge(new, old, on_server(old)) == (new, [])
    assert merge(new, None, None) == (new, [])


def test_what_was_changed_stays_and_is_said() -> None:
    old = shipped()
    now = on_server(old)
    now["schedules"][0] |= {"active": True, "cron": "30 4 * * *", "timezone": "Asia/Shanghai"}
    now["schedules"].append({"interval": 3600.0, "active": True, "parameters": {}})
    now["parameters"] |= {"config": "mine.yaml", "store": "/data/store"}
    now["tags"] = ["mine", "steel"]
    now["paused"] = True
    new = shipped(
        parameters={"config": "smoke.yaml", "watch": False},
        schedules=[{**NIGHTLY, "cron": "0 3 * * *", "parameters": {"watch": False, "run": None}}],
        tags=["steel", "scores"],
    )
    merged, kept = merge(new, old, now)
    assert merged["parameters"] == {"config": "mine.yaml", "watch": False, "store": "/data/store"}
    assert merged["schedules"] == [
        {
            "slug": "nightly-evaluation",
            "cron": "30 4 * * *",
            "timezone": "Asia/Shanghai",
            "active": True,
            "parameters": {"watch": False, "run": None},
        },
        {"interval": 3600.0, "active": True, "parameters": {}},
    ]
    assert merged["tags"] == ["steel", "scores", "mine"]
    assert merged["paused"] is True
    assert kept == [
        "paused True",
        "parameters config, store",
        "tags",
        "schedule nightly-evaluation on, 30 4 * * * Asia/Shanghai",
        "1 schedule(s) added by hand",
    ]
    # The same again: all of it stays once more, and nothing else moves.
    again, _ = merge(new, new, on_server(merged))
    assert again == merged


def test_schedules_come_and_go_with_the_file_unless_they_were_touched() -> None:
    other = {"slug": "hourly", "cron": "0 * * * *", "timezone": "UTC", "active": False}
    old, new = shipped(schedules=[NIGHTLY]), shipped(schedules=[other])
    untouched = on_server(old)
    assert merge(new, old, untouched) == (new, [])
    touched = on_server(old)
    touched["schedules"][0]["active"] = True
    merged, kept = merge(new, old, touched)
    assert [one["slug"] for one in merged["schedules"]] == ["hourly", "nightly-evaluation"]
    assert merged["schedules"][1]["active"] is True
    assert kept == ["schedule nightly-evaluation on"]
    removed = on_server(old) | {"schedules": []}
    assert merge(old, old, removed)[0]["schedules"] == []


@pytest.mark.parametrize("active", [False, True])
def test_schedules_of_a_version_that_wrote_nothing_down(active: bool) -> None:
    now = on_server(shipped(schedules=[{**FORMER[0], "active": active}]))
    now["parameters"]["config"] = "mine.yaml"
    merged, kept = merge(shipped(), None, now)
    slugs = [one["slug"] for one in merged["schedules"]]
    assert slugs == ["nightly-evaluation"] + ["nightly"] * active
    assert merged["parameters"]["config"] == "mine.yaml"
    assert any("parameters config" in words for words in kept)


VALUES = st.dictionaries(st.sampled_from("abc"), st.integers(0, 2), max_size=3)


@given(VALUES, VALUES, VALUES)
def test_each_parameter_is_the_servers_where_it_was_changed(
    old: dict[str, int], now: dict[str, int], new: dict[str, int]
) -> None:
    fields = {**on_server(shipped()), "parameters": now}
    merged, _ = merge(shipped(parameters=new), shipped(parameters=old), fields)
    for key in "abc":
        changed = now.get(key) != old.get(key)
        assert merged["parameters"].get(key) == (now if changed else new).get(key)
