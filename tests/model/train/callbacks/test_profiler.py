"""Traces of real ranks, asked for by settings and by a request while they train."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from common.errors import ConfigError
from model.train.run.folder import PROFILE_FOLDER
from model.train.run.plan import RunPlan
from model.train.run.requests import ProfileRequest, RequestFolder, parse_request
from model.train.trainer import Trainer
from tests.model.train import ranks

MakeRun = Callable[..., Trainer]
PHASES = ("data", "forward_backward", "all_reduce", "optimizer")


def names_in(path: Path) -> list[str]:
    return [
        e.get("name", "") for e in json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    ]


def test_every_rank_traces_what_settings_and_requests_ask_for(
    packed: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    changes = ranks.settings(profile={"start_step": 8, "num_steps": 2})
    job = ranks.write_job(packed, tmp_path, changes)
    RequestFolder(tmp_path).publish(ProfileRequest(num_steps=1))  # seen before the first step
    assert ranks.run_ranks(job, 2) == [0, 0], (tmp_path / "rank-0.log").read_text()
    files = sorted(str(p.relative_to(tmp_path)) for p in (tmp_path / PROFILE_FOLDER).rglob("*.gz"))
    assert files == [f"profile/step-0000000{s}/rank-{r}.json.gz" for s in (2, 8) for r in (0, 1)]
    for step, number in ((2, 1), (8, 2)):
        found = names_in(tmp_path / f"profile/step-0000000{step}/rank-1.json.gz")
        for phase in PHASES:
            assert found.count(f"steel:{phase}") == number, (step, phase)
    assert not RequestFolder(tmp_path).names()
    # And the numbers are those of a run without traces.
    assert ranks.read_run(tmp_path) == ranks.read_run(uninterrupted)


def test_a_request_for_a_trace_changes_no_journal(make_run: MakeRun) -> None:
    run = make_run()
    plan = run.request_handler.plan
    assert plan.apply("a", ProfileRequest(), step=3, consumed=24) is plan
    assert isinstance(plan, RunPlan)


@pytest.mark.parametrize("num_steps", ["three", 1.5, True, 0])
def test_a_malformed_request_is_refused(num_steps: object) -> None:
    raw = {"schema_version": 1, "kind": "profile", "request": {"num_steps": num_steps}}
    with pytest.raises(ConfigError, match=r"num_steps = .*; it must be a whole number"):
        parse_request(raw)
