"""Artifacts that lead from Prefect to MLflow, to the report and to the logs."""

from pathlib import Path

import pytest

from common.redaction import redact
from flows.environment import MLFLOW_URI
from flows.runs.pages import addresses, pages
from tasks.core.tracking import MODELS
from tasks.report.in_prefect import MAX_PICTURES, artifact_text

LINKS = {MODELS: "#/experiments/2/runs?workflowType=machine_learning&compareRunsMode=CHART"}
STAGES = [
    {"stage": "pretrain smoke", "key": "0a1b", "status": "done"},
    {"stage": "report", "key": "2c3d", "status": "reused"},
]


@pytest.mark.parametrize(
    ("uri", "address"),
    [
        ("sqlite:///store/mlflow.db", MLFLOW_URI),
        ("http://me:hunter22@lab:5000/", "http://***@lab:5000"),
    ],
)
def test_the_pages_of_a_run_are_named(tmp_path: Path, uri: str, address: str) -> None:
    for stage, file in (("pretrain/0a1b", "ranks.log"), ("report/2c3d", "report.html")):
        (tmp_path / stage).mkdir(parents=True)
        (tmp_path / stage / file).touch()
    text = redact(pages("smoke", tmp_path, STAGES, uri, LINKS))
    for word, whole in addresses(uri, LINKS).items():
        text = text.replace(word, whole)
    assert f"({address}/{LINKS[MODELS]})" in text
    assert f"`{tmp_path / 'report/2c3d/report.html'}`" in text
    row = next(line for line in text.splitlines() if line.startswith("| pretrain smoke"))
    assert "`ranks.log`" in row and "pretrain/0a1b" in row
    assert ("make up" in text) == (address == MLFLOW_URI)


def test_a_report_has_its_pictures_inside_and_no_links_of_its_page(tmp_path: Path) -> None:
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "a.png").write_bytes(b"png")
    (tmp_path / "figures" / "big.png").write_bytes(bytes(MAX_PICTURES + 1))
    text = artifact_text(
        '| base | [25.0](#n-c5e8254c "steel trace c5e8254c") |\n'
        "![Loss](figures/a.png) ![Big](figures/big.png) ![None](figures/none.png)\n"
        "[paper](https://arxiv.org/abs/2502.06635)\n",
        tmp_path,
        "store/report/1/report.html",
    )
    assert "| base | 25.0 |" in text
    assert "![Loss](data:image/png;base64,cG5n)" in text
    assert "Big: see" in text and "None: see" in text
    assert "[paper](https://arxiv.org" in text and "store/report/1/report.html" in text
