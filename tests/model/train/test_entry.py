"""Bad jobs are refused in the ranks' own words."""

from pathlib import Path
from typing import Any

import pytest

from model.train.run.folder import CHECKPOINTS_FOLDER
from tests.model.train import ranks

BAD_INPUT = 2

pytestmark = pytest.mark.usefixtures("fork_server")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"micro_batch_size": 3}, "global_batch_size = 8 is not a multiple"),
        ({"weights": {"gamma": 2.0}}, "'gamma' is no source of the packed data"),
        ({"model": "nowhere"}, "no folder of a Transformers model"),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(
    packed: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    job = ranks.write_job(packed, tmp_path, ranks.settings(**changes))
    assert ranks.run_ranks(job, 1) == [BAD_INPUT]
    log = (tmp_path / "rank-0.log").read_text()
    assert message in log
    assert "Traceback" not in log
    assert not (tmp_path / CHECKPOINTS_FOLDER).exists()
