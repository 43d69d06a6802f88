"""Clean: the paper's operators, really Data-Juicer's, with every lost document accounted for."""

import importlib.util
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest

from common.config import validate
from common.errors import ConfigError, DataError
from common.files import write_json
from common.recipes import read_yaml
from corpus.cleaning import document_trace
from corpus.cleaning import recipe as recipes
from corpus.cleaning.job import CleanJob
from corpus.cleaning.language_model.config import LanguageModelConfig
from corpus.cleaning.ray.plan import RayConfig
from corpus.decontaminate import ContaminationConfig
from corpus.sample_data import DATASETS, SampleDataConfig
from tasks.acquire import AcquireConfig, acquire
from tasks.clean import CleanConfig, clean, enforce
from tasks.core.manifest import StageResult
from tasks.core.stage import StageRun, stage_key
from tasks.normalize import NormalizeConfig, normalize
from tests.tasks.running import result_of, run_stage, stage_run

SIMHASH = {
    "tokenization": "space",
    "window_size": 6,
    "num_blocks": 6,
    "hamming_distance": 4,
    "lowercase": True,
}
TABLE_7: list[tuple[str, dict[str, Any]]] = [
    ("chinese_convert_mapper", {"mode": "t2s"}),
    ("clean_email_mapper", {}),
    ("clean_html_mapper", {}),
    ("clean_ip_mapper", {}),
    ("clean_links_mapper", {}),
    ("clean_copyright_mapper", {}),
    ("expand_macro_mapper", {}),
    ("fix_unicode_mapper", {}),
    ("punctuation_normalization_mapper", {}),
    (
        "remove_repeat_sentences_mapper",
        {"ignore_special_character": True, "min_repeat_sentence_length": 2},
    ),
    ("remove_specific_chars_mapper", {"chars_to_remove": "◆●■►▼▲▴∆▻▷❖♡□"}),
    ("whitespace_normalization_mapper", {}),
    ("alphanumeric_filter", {"tokenization": False, "min_ratio": 0.0, "max_ratio": 0.9}),
    ("average_line_length_filter", {"min_len": 10, "max_len": 150}),
    ("character_repetition_filter", {"min_ratio": 0.0, "max_ratio": 0.4}),
    ("maximum_line_length_filter", {"max_len": 1000}),
    ("perplexity_filter", {"lang": "zh", "max_ppl": 1500}),
    ("special_characters_filter", {"min_ratio": 0.0, "max_ratio": 0.25}),
    ("text_length_filter", {"min_len": 10, "max_len": 100000}),
    ("word_repetition_filter", {"min_ratio": 0.0, "max_ratio": 0.5}),
    ("document_simhash_deduplicator", SIMHASH),
]
TABLE_8: list[tuple[str, dict[str, Any]]] = [
    ("clean_copyright_mapper", {}),
    ("clean_email_mapper", {}),
    ("clean_links_mapper", {}),
    ("fix_unicode_mapper", {}),
    ("punctuation_normalization_mapper", {}),
    ("alphanumeric_filter", {"tokenization": True, "min_ratio": 0.546, "max_ratio": 3.65}),
    ("average_line_length_filter", {"min_len": 10, "max_len": 150}),
    ("character_repetition_filter", {"max_ratio": 0.36}),
    ("maximum_line_length_filter", {"max_len": 1000}),
    ("text_length_filter", {"max_len": 96714}),
    ("words_num_filter", {"min_num": 20, "max_num": 6640}),
    ("word_repetition_filter", {"rep_len": 10, "max_ratio": 0.357}),
    ("document_simhash_deduplicator", SIMHASH),
]


@pytest.mark.parametrize(("name", "table"), [("text", TABLE_7), ("code", TABLE_8)])
def test_recipe_is_the_papers(name: str, table: list[tuple[str, dict[str, Any]]]) -> None:
    operators = recipes.load(name).operators
    assert [op.name for op in operators] == [operator for operator, _ in table]
    for operator, (_, bounds) in zip(operators, table, strict=True):
        assert bounds.items() <= operator.arguments.items(), operator


@pytest.mark.parametrize(
    ("yaml", "words"),
    [
        ("process: [clean_emial_mapper]", "clean_email_mapper"),
        ("process: [text_length_filter: {min_length: 3}]", "min_len"),
        ("process: [random_selector]", "mappers, filters and deduplicators"),
        ("process: [text_length_filter: 3]", "must be a mapping"),
        ("process: []", "must be a list of operators"),
        ("process: {text_length_filter: {}}", "must be a list of operators"),
        ("process: [", "not valid YAML"),
        ("process: [perplexity_filter: {lang: zh}, perplexity_filter: {lang: en}]", "en, zh"),
    ],
)
def test_wrong_recipe_is_refused_with_the_remedy(
    yaml: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wrong.yaml").write_text(yaml)
    monkeypatch.setattr(recipes, "recipe_path", lambda kind, name: tmp_path / f"{name}.yaml")
    with pytest.raises(ConfigError, match=r"wrong\.yaml") as caught:
        recipes.load("wrong")
    assert words in str(caught.value)


def test_missing_packages_are_named_in_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    missing = {"simhash", "kenlm"}
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in missing else find_spec(name)
    )
    with pytest.raises(ConfigError) as caught:
        validate(CleanConfig(), "clean")
    assert "simhash-pybind (for document_simhash_deduplicator)" in str(caught.value)
    assert "kenlm (for perplexity_filter)" in str(caught.value)


def test_data_juicer_cannot_install_anything() -> None:
    script = (
        "from corpus.cleaning.offline import refuse_installs\n"
        "refuse_installs()\n"
        "from data_juicer.utils.lazy_loader import LazyLoader\n"
        "LazyLoader('no_such_module_of_steel').anything\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "nothing is installed at run time" in done.stderr


def test_unknown_recipe_wrong_numbers_and_missing_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="text-repaired"):
        validate(CleanConfig(text="txet"), "clean")
    with pytest.raises(ConfigError, match="examples"):
        validate(CleanConfig(examples=-1), "clean")
    with pytest.raises(ConfigError, match="order"):
        validate(CleanConfig(language_model=LanguageModelConfig(order=7)), "clean")
    with pytest.raises(DataError, match=r"zh\.sp\.model"):
        validate(CleanConfig(language_model=LanguageModelConfig(folder=str(tmp_path))), "clean")


# --- stage -----------------------------------------------------------------------------------

TRADITIONAL = "這座橋樑連接兩岸，橋頭有一間賣茶葉的老店，店主每天清早開門。"
SIMPLIFIED = "这座桥梁连接两岸,桥头有一间卖茶叶的老店,店主每天清早开门."
LETTER = "谢谢您上个月寄来的种子，院子里的花都开了，红的黄的一大片，邻居们都说好看。"
LONG_SENTENCE = "城外的老桥边从前有一座木头做的水车每逢春天涨水的时候它便整夜整夜地响个不停。"
QUESTION = "下列关于人体心脏四个腔室之间瓣膜开闭与血液流动方向的叙述中，与心室收缩期相符合的一项是"
OPTIONS = ("房室瓣关闭而动脉瓣开放", "房室瓣开放而动脉瓣关闭", "两者都开放", "两者都关闭")
CHARACTERS = "的一是在不了有和人这中大为上个国我以要他时来用们生到作地于出就分对成会可主发年动"


def prose(rng: Random, length: int) -> str:
    """Chinese-looking text with commas and full stops, about `length` characters."""
    parts = ["".join(rng.choices(CHARACTERS, k=rng.randrange(5, 8))) for _ in range(length // 7)]
    return "，".join(parts) + "。"


def planted() -> dict[str, str]:
    """Documents whose fate is known."""
    rng = Random(3)
    long = prose(rng, 900)
    edited = long[:300] + "改" + long[301:600] + "动" + long[601:]
    return {
        "traditional": TRADITIONAL,
        "html": f"<div><p>{SIMPLIFIED}</p><script></script></div>",
        "address": f"{LETTER}来信寄到 a.person@example.com 或看 https://example.com/a?b=1 。",
        "ip": f"{SIMPLIFIED}服务器在 192.168.10.24 那里。",
        "special": f"◆{SIMPLIFIED}●再说一句别的话。■",
        "repeats": f"{LONG_SENTENCE}另外一句话在这里。{LONG_SENTENCE}再说一句别的。",
        "one-line": prose(rng, 1500),
        "original": long,
        "near-duplicate": edited,
        "exact-duplicate": long,
        "squared": f"设面积为 x²，边长为 x，求周长。{prose(rng, 60)}",
        "question": "\n".join([prose(rng, 200), QUESTION, *OPTIONS, prose(rng, 200)]),
        "garbage": "!@#$%^&*()_+{}|:<>?~`-=[];',./ " * 4,
        "short": "太短。",
        "stranger-1": "问：谁来了？\n答：是老王来了，他带着一只鸡。",
        "stranger-2": "问：几点了？\n答：已经八点半，快去上学吧。",
    }


def write_source(folder: Path, source: str, texts: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{source}.jsonl").open("w", encoding="utf-8") as file:
        for name, text in texts.items():
            document = {"text": text, "source": source, "id": f"{source}/{name}", "meta": {"n": 1}}
            file.write(json.dumps(document, ensure_ascii=False) + "\n")


def benchmarks(folder: Path) -> StageResult:
    """CMMLU with one question."""
    for split in ("dev", "test"):
        path = folder / "cmmlu" / split / "anatomy.csv"
        path.parent.mkdir(parents=True)
        text = QUESTION if split == "test" else "骨骼分为几类"
        row = ",".join(["0", text, *OPTIONS, "A"])
        path.write_text(f",Question,A,B,C,D,Answer\n{row}\n")
    return result_of(stage_run(folder))


def normalized(folder: Path) -> StageResult:
    return result_of(stage_run(folder))


def documents(path: Path) -> dict[str, dict[str, Any]]:
    return {d["id"]: d for d in map(json.loads, path.read_text("utf-8").splitlines())}


@pytest.fixture(scope="module")
def cleaned(tmp_path_factory: pytest.TempPathFactory) -> StageResult:
    """One run over planted documents; the language model learns from prose of the same kind."""
    folder = tmp_path_factory.mktemp("clean")
    rng = Random(1)
    encyclopaedia = {f"w{i}": prose(rng, 400) for i in range(60)} | {
        f"t{i}": text for i, text in enumerate([SIMPLIFIED] * 20)
    }
    write_source(folder / "in", "wikipedia_cn", encyclopaedia)
    write_source(folder / "in", "skypile", planted())
    config = CleanConfig(workers=1)
    run = run_stage(
        clean,
        folder / "out",
        config,
        normalized=normalized(folder / "in"),
        benchmarks=benchmarks(folder / "benchmarks"),
    )
    return result_of(run)


def kept(folder: Path, source: str) -> dict[str, dict[str, Any]]:
    """Cleaned documents of a source, by their id without the source."""
    return {
        i.partition("/")[2]: d
        for path in sorted((folder / source).glob("*.jsonl"))
        for i, d in documents(path).items()
    }


def test_planted_documents_meet_their_fate(cleaned: StageResult) -> None:
    texts = {name: d["text"] for name, d in kept(cleaned.folder, "skypile").items()}
    assert texts.keys() == {
        "traditional",
        "address",
        "ip",
        "special",
        "repeats",
        "one-line",
        "original",
        "stranger-1",
        "stranger-2",
        "squared",
    }
    assert "@" not in texts["address"] and "http" not in texts["address"]
    assert "192.168" not in texts["ip"]
    assert "◆" not in texts["special"]
    assert texts["repeats"].count(LONG_SENTENCE) == 1
    assert texts["traditional"].startswith("这座桥梁连接两岸，")
    assert "x²" in texts["squared"] and "，" in texts["squared"]
    assert kept(cleaned.folder, "skypile")["ip"]["meta"] == {"n": 1}


def test_dropped_documents_are_shown_with_the_operator_that_dropped_them(
    cleaned: StageResult,
) -> None:
    lines = (cleaned.folder / "dropped-examples.jsonl").read_text().splitlines()
    fate = {d["id"]: d["operator"] for d in map(json.loads, lines) if d["source"] == "skypile"}
    assert fate == {
        # The page's text is what the document in traditional characters says.
        "skypile/html": "document_simhash_deduplicator",
        "skypile/near-duplicate": "document_simhash_deduplicator",
        "skypile/exact-duplicate": "document_simhash_deduplicator",
        "skypile/garbage": "alphanumeric_filter",
        "skypile/short": "average_line_length_filter",
        "skypile/question": "contamination_filter",
    }
    garbage = next(d for d in map(json.loads, lines) if d["id"] == "skypile/garbage")
    assert garbage["measured"]["alnum_ratio"] < 0.1


def test_every_document_has_a_fate(cleaned: StageResult) -> None:
    row = document_trace.find(cleaned.folder, "skypile/exact-duplicate")
    assert row is not None
    assert (row["duplicate_of"], row["stats"]["duplicate_distance"]) == ("skypile/original", 0)
    near = document_trace.find(cleaned.folder, "skypile/near-duplicate")
    assert near is not None and near["duplicate_of"] == "skypile/original"
    assert 0 < near["stats"]["duplicate_distance"] <= 6
    special = document_trace.find(cleaned.folder, "skypile/special")
    assert special is not None and special["dropped_by"] == 0
    assert special["bytes_in"] - special["bytes_out"] == len("◆●■".encode())
    ids = {i for path in document_trace.files(cleaned.folder, "skypile") for i in ids_of(path)}
    assert ids == {f"skypile/{name}" for name in planted()}


def ids_of(path: Path) -> list[str]:
    return list(pq.read_table(path)["id"].to_pylist())


def test_ledger_agrees_with_the_files(cleaned: StageResult) -> None:
    folder = cleaned.folder
    rows = pq.read_table(folder / "ledger.parquet").to_pylist()
    assert rows == json.loads((folder / "ledger.json").read_text())["rows"]
    operators = (
        len(recipes.load("text-repaired").operators) + 1
    )  # and the one for benchmark questions
    assert len(rows) == 2 * operators
    for source, come in (("skypile", len(planted())), ("wikipedia_cn", 80)):
        mine = [row for row in rows if row["source"] == source]
        texts = [d["text"] for d in kept(folder, source).values()]
        assert mine[0]["documents_in"] == come
        assert mine[-1]["documents_kept"] == len(texts)
        assert mine[-1]["bytes_kept"] == sum(len(text.encode()) for text in texts)
        for before, after in itertools.pairwise(mine):
            assert after["documents_in"] == before["documents_kept"]
            assert after["bytes_in"] == before["bytes_kept"]
            assert before["documents_in"] == before["documents_kept"] + before["documents_dropped"]


def test_statistics_duplicates_and_contamination_are_reported(cleaned: StageResult) -> None:
    ledger = json.loads((cleaned.folder / "ledger.json").read_text())
    perplexity = next(
        s
        for s in ledger["statistics"]
        if (s["statistic"], s["source"]) == ("perplexity", "skypile")
    )
    assert perplexity["operator"] == "perplexity_filter"
    assert perplexity["percentiles"] == sorted(perplexity["percentiles"])
    duplicates = json.loads((cleaned.folder / "duplicates.json").read_text())
    sizes = {row["kept"]: row["copies"] for row in duplicates["largest"]}
    assert sizes == {"skypile/traditional": 21, "skypile/original": 2}
    assert duplicates["largest"][0]["text"].startswith("这座桥梁")
    assert {"dropped_from": "wikipedia_cn", "kept_in": "skypile", "documents": 20} in (
        duplicates["sources"]
    )
    (found,) = pq.read_table(cleaned.folder / "contamination.parquet").to_pylist()
    assert found["id"] == "skypile/question"
    assert (found["benchmark"], found["overlap"]) == ("cmmlu", 1.0)
    assert cleaned.manifest["counts"]["contaminated_documents"] == 1
    assert (cleaned.folder / "attrition.png").read_bytes()[1:4] == b"PNG"


def test_flagged_documents_stay_and_say_so(cleaned: StageResult, tmp_path: Path) -> None:
    write_source(tmp_path / "in", "skypile", planted())
    config = CleanConfig(
        workers=1, contamination=ContaminationConfig(action="flag"), language_model=given(cleaned)
    )
    run_stage(
        clean,
        tmp_path / "out",
        config,
        normalized=normalized(tmp_path / "in"),
        benchmarks=benchmarks(tmp_path / "benchmarks"),
    )
    flagged = {n: d["meta"] for n, d in kept(tmp_path / "out", "skypile").items()}
    assert flagged["question"] == {"n": 1, "contamination": ["cmmlu/anatomy/test/0"]}
    assert flagged["ip"] == {"n": 1}


def given(cleaned: StageResult) -> LanguageModelConfig:
    """The language model that an earlier run has trained."""
    return LanguageModelConfig(folder=str(cleaned.folder / "language_model" / "text"))


def test_finished_folder_says_how_it_was_made(cleaned: StageResult) -> None:
    assert (cleaned.folder / "recipe-text.yaml").exists()
    assert {p.name for p in (cleaned.folder / "language_model" / "text").iterdir()} >= {
        "zh.sp.model",
        "zh.arpa.bin",
    }
    assert not list(cleaned.folder.rglob("*.tmp"))


def test_nothing_to_clean(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no source"):
        run_stage(clean, tmp_path / "out", CleanConfig(), normalized=normalized(tmp_path))


# --- gates -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gates", "words"),
    [
        (
            {"skypile": {"document_simhash_deduplicator": 0.2}},
            ["skypile: document_simhash_deduplicator dropped 23.1 %", "allows 20.0 %"],
        ),
        ({"*": {"total": 0.3}}, ["skypile: total dropped", "clean.max_drop.*.total"]),
        ({"*": {"*": 0.1}, "wikipedia_cn": {"*": 1}}, ["clean.max_drop.*.* allows 10.0 %"]),
    ],
)
def test_gate_stops_the_flow_with_the_table_that_shows_why(
    cleaned: StageResult, gates: dict[str, dict[str, float]], words: list[str]
) -> None:
    with pytest.raises(DataError) as caught:
        enforce(cleaned, CleanConfig(max_drop=gates))
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert "3 of        13  document_simhash_deduplicator" in message
    assert "text-repaired.yaml" in message


@pytest.mark.parametrize(
    "gates",
    [
        {},
        {"*": {"total": 0.95}},
        {"skypile": {"*": 1}},
        # The narrowest gate counts.
        {
            "*": {"*": 0.0, "total": 0.0},
            "skypile": {"*": 1, "total": 1},
            "wikipedia_cn": {"*": 1, "total": 1},
        },
    ],
)
def test_gates_that_hold(cleaned: StageResult, gates: dict[str, dict[str, float]]) -> None:
    enforce(cleaned, CleanConfig(max_drop=gates))


@pytest.mark.parametrize(
    ("gates", "words"),
    [
        ({"skypiel": {"total": 0.5}}, "skypile"),
        ({"skypile": {"simhash": 0.5}}, "document_simhash_deduplicator"),
        ({"*": {"total": 95}}, "share from 0 to 1"),
    ],
)
def test_gate_that_could_never_close_is_refused(
    gates: dict[str, dict[str, float]], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        validate(CleanConfig(max_drop=gates), "clean")


def test_gates_and_workers_are_not_in_the_key() -> None:
    def key(**config: Any) -> str:
        return stage_key("clean", 1, CleanConfig(**config), {})

    assert key() == key(workers=7) == key(max_drop={})
    assert len({key(), key(text="text"), key(partition_bytes=1 << 22)}) == 3


# --- slow ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_source_that_loses_everything_is_refused(cleaned: StageResult, tmp_path: Path) -> None:
    write_source(tmp_path / "in", "skypile", planted())
    write_source(tmp_path / "in", "zhihu", {"a": "短。", "b": "!!!!!!!!!!!!!!!!!!!!!!"})
    config = CleanConfig(language_model=given(cleaned))
    with pytest.raises(DataError, match="zhihu") as caught:
        run_stage(clean, tmp_path / "out", config, normalized=normalized(tmp_path / "in"))
    assert "alphanumeric_filter 1" in str(caught.value)
    assert "text-repaired.yaml" in str(caught.value)
    # The cleaning itself was finished: a second attempt says the same without a new process.
    (written,) = (tmp_path / "out" / "skypile").iterdir()
    started = written.stat().st_mtime_ns
    with pytest.raises(DataError, match="zhihu"):
        run_stage(clean, tmp_path / "out", config, normalized=normalized(tmp_path / "in"))
    assert written.stat().st_mtime_ns == started


@pytest.mark.slow
def test_error_of_the_process_reaches_the_user(tmp_path: Path) -> None:
    write_source(tmp_path / "in", "skypile", {"a": SIMPLIFIED})
    with pytest.raises(DataError, match=r"clean\.language_model\.sources"):
        run_stage(clean, tmp_path / "out", CleanConfig(), normalized=normalized(tmp_path / "in"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> StageResult:
    """A fifth of the sample data, normalised."""
    folder = tmp_path_factory.mktemp("world")
    datasets = dict.fromkeys(DATASETS["corpora"], "sample-data")
    config = AcquireConfig(
        kind="corpora", datasets=datasets, sample_data=SampleDataConfig(scale=0.2)
    )
    raw = run_stage(acquire, folder / "raw", config)
    return result_of(
        run_stage(normalize, folder / "normalized", NormalizeConfig(), raw=result_of(raw))
    )


CONFIG = CleanConfig(workers=1, partition_bytes=1 << 20)
ROOT = Path(__file__).resolve().parents[2]
KILLED = """
import sys
from pathlib import Path
from tasks.clean import CleanConfig, clean
from tests.tasks.running import result_of, run_stage, stage_run
normalized = result_of(stage_run(Path(sys.argv[1])))
config = CleanConfig(workers=3, partition_bytes=1 << 20)
run_stage(clean, Path(sys.argv[2]), config, normalized=normalized)
"""


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and ".scratch" not in p.parts
    }


@pytest.fixture(scope="module")
def whole(world: StageResult, tmp_path_factory: pytest.TempPathFactory) -> StageRun:
    """An uninterrupted run of one worker."""
    return run_stage(clean, tmp_path_factory.mktemp("whole"), CONFIG, normalized=world)


MOMENTS = {
    "while the language model is trained": "training the language model",
    "at the first documents": "bytes read",
    "between documents": ".scratch/text/work/surveyed/*[0-9]",
    "before duplicates are found": "looking for duplicates",
    "while files are written": "wik*/*.jsonl",
    "when one kind is finished": ".scratch/ledger-*.json",
}
"""Moment of the kill -> the sign of it: words of the progress, or a file."""


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_kill_and_run_again_equals_an_uninterrupted_run(
    world: StageResult, whole: StageRun, tmp_path: Path, moment: str
) -> None:
    killed = tmp_path / "killed"
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(world.folder), str(killed)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    workers: list[psutil.Process] = []

    def reached() -> bool:
        if "*" in MOMENTS[moment]:
            return any(killed.glob(MOMENTS[moment]))
        try:
            progress = (killed / ".scratch" / "text" / "job.progress").read_text()
        except FileNotFoundError:
            return False
        # Behind the moment is as good: some last for an instant.
        later = list(MOMENTS.values())[list(MOMENTS).index(moment) :]
        return any(words in progress for words in (*later, "writing"))

    try:
        while not reached():
            assert child.poll() is None, f"finished before the moment {moment!r} came"
            time.sleep(0.005)
        workers = psutil.Process(child.pid).children(recursive=True)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert not alive, "the cleaning processes die with the one that started them"
    left = content(killed)
    run_stage(clean, killed, CONFIG, normalized=world)
    expected = content(whole.folder)
    assert content(killed) == expected
    assert not any(name.endswith(".tmp") for name in content(killed))
    for name, data in left.items():
        if not name.endswith(".tmp"):
            assert data == expected[name], f"{name} was visible before it was complete"


FULL_DISK = """
set -e
mount -t tmpfs -o size=$SIZE tmpfs "$DISK"
mkdir -p "$DISK/out" "$DISK/work"
"$PYTHON" -m corpus.cleaning "$JOB" && exit 9
cat "${JOB%.json}.error"
find "$DISK/work/surveyed" -mindepth 1 -maxdepth 1 -not -name '*.tmp' > "$DONE"
mount -o remount,size=200m "$DISK"
"$PYTHON" -m corpus.cleaning "$JOB"
cp -r "$DISK/out" "$RESULT"
"""


@pytest.mark.slow
def test_full_disk_is_one_clear_error_and_loses_nothing(
    world: StageResult, whole: StageRun, tmp_path: Path
) -> None:
    """A disk of a megabyte, mounted for this test alone, is full in the middle of the work."""
    unshare = ["unshare", "--map-root-user", "--mount"]
    try:
        subprocess.run([*unshare, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no disk of a fixed size can be mounted here")
    models, disk = tmp_path / "models", tmp_path / "disk"
    shutil.copytree(whole.folder / "language_model" / "text", models)
    disk.mkdir()
    sources = [s for s, row in whole.notes["sources"].items() if row["kind"] == "text"]
    job = CleanJob(
        kind="text",
        recipe=CONFIG.text,
        output=str(disk / "out"),
        scratch=str(disk / "work"),
        inputs={s: str(world.folder / f"{s}.jsonl") for s in sources},
        models=str(models),
        ledger=str(tmp_path / "ledger.json"),
        language_model={"folder": "given"},
        tokenizer="auto",
        examples=3,
        partition_bytes=1 << 20,
        workers=2,
        contamination="",
        contamination_action="drop",
        executor="local",
        ray={},
    )
    write_json(tmp_path / "job.json", asdict(job))
    done = subprocess.run(
        [*unshare, "sh", "-c", FULL_DISK],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ
        | {
            "SIZE": "500k",
            "DISK": str(disk),
            "PYTHON": sys.executable,
            "JOB": str(tmp_path / "job.json"),
            "DONE": str(tmp_path / "done"),
            "RESULT": str(tmp_path / "result"),
            "HF_HUB_OFFLINE": "1",
        },
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "The disk is full" in done.stdout and "run again" in done.stdout
    finished = (tmp_path / "done").read_text().split()
    assert 0 < len(finished) < len(sources)
    expected = content(whole.folder)
    for name, data in content(tmp_path / "result").items():
        assert data == expected[name]
    assert {n.partition("/")[0] for n in content(tmp_path / "result")} == {*sources, "documents"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["text", "code"])
def test_kept_documents_are_those_of_dj_process(
    kind: str, world: StageResult, whole: StageRun, tmp_path: Path
) -> None:
    sources = [s for s, row in whole.notes["sources"].items() if row["kind"] == kind]
    ours = {}
    with (tmp_path / "all.jsonl").open("w", encoding="utf-8") as file:
        for source in sources:
            for path in sorted((whole.folder / source).iterdir()):
                ours |= {i: d["text"] for i, d in documents(path).items()}
            for document in documents(world.folder / f"{source}.jsonl").values():
                slim = {"id": document["id"], "text": document["text"]}
                file.write(json.dumps(slim, ensure_ascii=False) + "\n")
    recipe = recipes.load(CONFIG.recipe_of(kind))
    export = tmp_path / "export" / "out.jsonl"
    recipe.write_resolved(tmp_path / "dj.yaml", dataset=tmp_path / "all.jsonl", export=export)
    models = whole.folder / "language_model" / "text"
    if kind == "code":
        models = whole.scratch / "code" / "models"
    cache = tmp_path / "cache"
    subprocess.run(
        [sys.executable, "-m", "tools.process_data", "--config", str(tmp_path / "dj.yaml")],
        check=True,
        cwd=tmp_path,
        capture_output=True,
        env=os.environ
        | {
            "DATA_JUICER_EXTERNAL_MODELS_HOME": str(models),
            "HF_HUB_OFFLINE": "1",
            "DATA_JUICER_CACHE_HOME": str(cache),
            "HF_DATASETS_CACHE": str(cache),
            "UV_OFFLINE": "1",
            "UV_CACHE_DIR": str(cache / "uv"),
            "PIP_NO_INDEX": "1",
        },
    )
    theirs = {i: d["text"] for i, d in documents(export).items()}
    assert list(theirs.items()) == list(ours.items())


@pytest.mark.slow
def test_real_rows_of_every_source(shared: Path, tmp_path: Path) -> None:
    """The ledger adds up for every source, down to the files; the paper's recipe keeps a fifth of
    the real text, the repaired one nearly all."""
    deployment = read_yaml(ROOT / "deployments" / "real-sample.yaml")
    config = AcquireConfig(kind="corpora", datasets=deployment["corpora"], limit=200)
    raw = run_stage(acquire, tmp_path / "raw", config)
    documents_in = run_stage(normalize, tmp_path / "norm", NormalizeConfig(), raw=result_of(raw))
    questions = stage_run(shared / "data" / "eval")
    kept_of: dict[str, Counter[str]] = {}
    for kind, recipe in (("paper", {"text": "text", "code": "code"}), ("repaired", {})):
        run = run_stage(
            clean,
            tmp_path / kind,
            CleanConfig(**recipe),
            normalized=result_of(documents_in),
            benchmarks=result_of(questions),
        )
        assert run.counts["documents_failed"] == 0
        rows = pq.read_table(run.folder / "ledger.parquet").to_pylist()
        assert {row["source"] for row in rows} == set(deployment["corpora"])
        for source in deployment["corpora"]:
            mine = [row for row in rows if row["source"] == source]
            come = documents(documents_in.folder / f"{source}.jsonl")
            left = kept(run.folder, source).values()
            assert mine[0]["documents_in"] == len(come)
            assert mine[0]["bytes_in"] == sum(len(d["text"].encode()) for d in come.values())
            assert mine[-1]["documents_kept"] == len(left)
            assert mine[-1]["bytes_kept"] == sum(len(d["text"].encode()) for d in left)
            dropped = sum(row["documents_dropped"] for row in mine)
            assert dropped == len(come) - len(left)
            traced = [i for path in document_trace.files(run.folder, source) for i in ids_of(path)]
            assert traced == list(come)
        kept_of[kind] = Counter({s: r["documents_kept"] for s, r in run.notes["sources"].items()})
    for source, count in kept_of["repaired"].items():
        assert count > 0.85 * len(documents(documents_in.folder / f"{source}.jsonl"))
        if not source.startswith("starcoder"):
            assert kept_of["paper"][source] < 0.75 * count


@pytest.mark.slow
def test_ray_gives_the_same_up_to_near_duplicates(cleaned: StageResult, tmp_path: Path) -> None:
    folder = cleaned.folder
    config = CleanConfig(
        executor="ray",
        ray=RayConfig(num_cpus=2),
        language_model=given(cleaned),
        contamination=ContaminationConfig(action="flag"),
    )
    write_source(tmp_path / "in", "skypile", planted())
    run = run_stage(
        clean,
        tmp_path / "out",
        config,
        normalized=normalized(tmp_path / "in"),
        benchmarks=benchmarks(tmp_path / "benchmarks"),
    )

    def rows(folder: Path) -> list[dict[str, Any]]:
        ledger = json.loads((folder / "ledger.json").read_text())["rows"]
        return [row for row in ledger if row["source"] == "skypile"]

    # Here the question is flagged, there it is dropped: equal up to the filter that sees it.
    last = [row["operator"] for row in rows(folder)].index("contamination_filter")
    assert rows(run.folder)[:last] == rows(folder)[:last]
    assert rows(run.folder)[-1]["operator"] == "ray_bts_minhash_deduplicator"
    texts = {i: d["text"] for i, d in kept(run.folder, "skypile").items()}
    for name, document in kept(folder, "skypile").items():
        if name in texts:
            assert texts[name] == document["text"]
        else:  # MinHash finds more: a sentence with a few words added is a copy to it
            lost = document_trace.find(run.folder, f"skypile/{name}")
            assert lost is not None and lost["dropped_by"] == len(rows(folder))
            assert lost["duplicate_of"] is not None
    meta = kept(run.folder, "skypile")["question"]["meta"]
    assert meta["contamination"] == ["cmmlu/anatomy/test/0"]
    assert run.counts["contaminated_documents"] == 1
    row = document_trace.find(run.folder, "skypile/exact-duplicate")
    assert row is not None and row["duplicate_of"] == "skypile/original"
    assert run.notes["ray"]["replaced"][0]["operator"] == "document_simhash_deduplicator"
