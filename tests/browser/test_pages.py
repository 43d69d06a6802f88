"""Pages as a person finds them: Prefect's forms and runs, MLflow's comparison, the report.

One laboratory and one tiny run serve all tests. Pages that fail are pictured in .steel/browser.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("playwright", reason="needs playwright: make install-dev")

from playwright.sync_api import Browser

from common.paths import ROOT
from tests.browser.laboratory import STEPS, Laboratory
from tests.browser.pages import DESKTOP, PHONE, Look, chromium
from tests.flows.schedules.test_server import until

pytestmark = [pytest.mark.slow, pytest.mark.browser, pytest.mark.timeout(3000)]

PICTURES = ROOT / ".steel" / "browser"
BOTH = pytest.mark.parametrize("width", [DESKTOP, PHONE])
Open = Callable[[int, str | Path], Look]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def lab(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laboratory]:
    """The servers; `browser` is asked for first, so that none is started without one."""
    laboratory = Laboratory(tmp_path_factory.mktemp("browser"))
    try:
        yield laboratory
    finally:
        laboratory.close()


@pytest.fixture(scope="module")
def finished(lab: Laboratory) -> str:
    """A whole pipeline, from texts to the report."""
    run = lab.start_run("pipeline")
    lab.wait(run, "Completed")
    return run


@pytest.fixture(scope="module")
def training(lab: Laboratory, finished: str) -> str:
    """A pretraining that works."""
    run = lab.train()
    until(lambda: lab.progress(run, "pretrain") > 0)
    return run


@pytest.fixture(scope="module")
def waiting(lab: Laboratory, training: str) -> str:
    """A pretraining that waits for it."""
    run = lab.train(learning_rate=1e-3)
    lab.wait(run, "Waiting")
    return run


@pytest.fixture
def look(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Open]:
    """Opens pages; a failed test leaves a picture of each."""
    opened: list[Look] = []
    failed = request.session.testsfailed

    def open_page(width: int, address: str | Path) -> Look:
        opened.append(Look(browser, width))
        opened[-1].open(address)
        return opened[-1]

    yield open_page
    for number, page in enumerate(opened):
        if request.session.testsfailed > failed:
            name = re.sub(r"\W+", "-", request.node.name).strip("-")
            page.shoot(PICTURES / f"{name}-{number}.png", full_page=True)
        page.page.close()


@BOTH
def test_a_form_says_what_each_field_means(lab: Laboratory, look: Open, width: int) -> None:
    page = look(width, f"{lab.page}/deployments/deployment/{lab.deployment_id('pretrain')}/run")
    page.sees("Optimizer steps", "Length of the training, 1 to 10,000,000,000", "paper (section 5)")
    page.order("Configuration", "Optimizer steps", "Learning rate", "Soft MoE routing", "Store")
    assert page.field("Optimizer steps").input_value() == "60"
    assert "2e-3; steel-1b: 3e-4" in page.text(), "what an empty field stands for"
    page.fits()
    page.choices("Soft MoE routing").click()
    page.sees(re.compile("^dense$"), re.compile("^sequence$"), re.compile("^token$"))
    page.page.keyboard.press("Escape")


def test_a_form_refuses_a_wrong_value_and_says_the_range(lab: Laboratory, look: Open) -> None:
    page = look(DESKTOP, f"{lab.page}/deployments/deployment/{lab.deployment_id('pretrain')}/run")
    page.sees("Optimizer steps")
    before = lab.ask("flow_runs/count", {})
    page.field("Optimizer steps").fill("-5")
    page.page.get_by_role("button", name="Submit").click()
    page.sees(re.compile("less than (or equal to )?the minimum of 1|must be .*1"))
    assert lab.ask("flow_runs/count", {}) == before, "no run is made"


@BOTH
def test_artifacts_of_a_finished_run(
    lab: Laboratory, finished: str, look: Open, width: int
) -> None:
    page = look(width, f"{lab.page}/runs/flow-run/{finished}")
    page.sees("Completed")
    page.tab("Artifacts")
    page.finds("ledger", "results", "report", "where-to-look")
    found = lab.artifacts(finished)
    bars = {key: one["data"] for key, one in found.items() if one["type"] == "progress"}
    assert bars and set(bars.values()) == {100.0}
    for key, words in {next(iter(bars)): (re.compile("100 ?%"),), **ARTIFACTS}.items():
        page.open(f"{lab.page}/artifacts/artifact/{found[key]['id']}")
        page.sees(*words)
        page.fits()


ARTIFACTS: dict[str, tuple[str | re.Pattern[str], ...]] = {
    "ledger": ("wikipedia_cn",),
    "results": ("base", re.compile("C-Eval")),
    "where-to-look": ("Comparison of the models in MLflow", "Stages"),
    "report": ("Results",),
    "near-duplicates": ("The largest clusters of near-duplicates: none.",),
}
"""Key of an artifact -> what it must show."""


def test_the_printed_link_opens_the_comparison(lab: Laboratory, finished: str, look: Open) -> None:
    text = lab.artifacts(finished)["where-to-look"]["data"]
    link = re.search(r"\[Comparison of the models in MLflow\]\((\S+)\)", text)
    assert link is not None
    for width in (DESKTOP, PHONE):
        page = look(width, link[1])
        page.sees("1 Accuracy, with 95 % intervals")
        if width == PHONE:
            continue  # its charts stand beside a list of runs, which leaves them no room
        for benchmark in ("ceval", "mmlu"):
            page.sees(re.compile(f"^(accuracy/{benchmark}|{benchmark}: accuracy)$"))
            page.sees(re.compile(f"^(interval_95/{benchmark}|{benchmark}: 95 % interval)$"))
        page.order("1 Accuracy", "2 Loss by tokens")
        assert "Observability" not in page.text(), "the mode for prompts"
        colours = page.colours()
        assert len(colours) == len(set(colours)) == 3, "base, SFT and DPO models"


@BOTH
def test_a_run_that_works_shows_line_state_and_log(
    lab: Laboratory, training: str, look: Open, width: int
) -> None:
    page = look(width, f"{lab.page}/runs/flow-run/{training}")
    page.sees(f"pretrain browser, {STEPS:,} steps", "Running")
    page.finds(re.compile(rf"step \d+/{STEPS}, loss \d+\.\d+, [\d,]+ tokens/s, MFU"))
    page.tab("Artifacts")
    page.finds(re.compile("pretrain.*progress"), re.compile(r"\d+ ?%"))
    page.fits()


@BOTH
def test_a_run_that_waits_says_for_what(
    lab: Laboratory, waiting: str, look: Open, width: int
) -> None:
    page = look(width, f"{lab.page}/runs/flow-run/{waiting}")
    page.sees(f"pretrain browser, {STEPS:,} steps, lr 1e-3", "Waiting")
    other = f"waits for pretrain browser of the run 'pretrain browser, {STEPS:,} steps, lr 2e-3"
    page.finds(re.compile(other))
    page.fits()


def test_a_run_cancelled_in_its_page_says_what_it_kept(
    lab: Laboratory, training: str, waiting: str, look: Open
) -> None:
    for run in (waiting, training):
        page = look(DESKTOP, f"{lab.page}/runs/flow-run/{run}")
        page.sees(re.compile("^(Running|Waiting)$"))
        page.page.get_by_role("button", name=re.compile("^ *Cancel *$")).click()
        page.page.get_by_role("dialog").get_by_role("button", name="Confirm").click()
        lab.wait(run, "Cancelled")
    for width in (DESKTOP, PHONE):
        page = look(width, f"{lab.page}/runs/flow-run/{training}")
        page.sees(re.compile("^Cancelled$"))
        page.finds(
            re.compile(r"stopped, pretrain browser saved step [\d,]+; the same run continues")
        )
        assert "Crash detected" not in page.text() and "Traceback" not in page.text()
        page.fits()


@BOTH
@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_report_is_read_in_both_languages(
    lab: Laboratory, finished: str, look: Open, width: int, language: str
) -> None:
    name = "report.html" if language == "en" else "report.zh.html"
    (path,) = (lab.store / "report").glob(f"*/{name}")
    page = look(width, path)
    page.sees("Steel: browser")
    page.order(*(("C-Eval %", "MMLU %", "Results") if language == "en" else ("C-Eval %", "结果")))
    page.readable()
    page.fits()
    assert page.empty_sections() == []
    assert page.unseen_pictures() == []
    first = page.page.locator("table").first
    assert first.get_by_text("base", exact=True).is_visible()
    right = first.locator("th", has_text="MMLU %").bounding_box()
    assert right is not None and right["x"] + right["width"] <= width, "seen without scrolling"
    page.page.get_by_role(
        "link", name="中文" if language == "en" else "English", exact=True
    ).click()
    page.sees("结果" if language == "en" else "Results")


def test_no_page_asks_anything_of_another_host(
    lab: Laboratory, finished: str, browser: Browser
) -> None:
    asked: list[str] = []
    page = Look(browser, DESKTOP)
    page.page.on("request", lambda request: asked.append(request.url))
    for path in (lab.store / "report").glob("*/report*.html"):
        page.open(path)
    page.page.close()
    assert {url.partition(":")[0] for url in asked} <= {"file", "data"}
