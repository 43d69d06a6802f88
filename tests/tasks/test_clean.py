"""Clean: the paper's operators, really Data-Juicer's, with every lost document accounted for."""

import importlib.util
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest

from model.errors import ConfigError, DataError
from tasks._juicer import recipe as recipes
from tasks._juicer.__main__ import _never_install
from tasks._juicer.ledger import Ledger, Reservoir
from tasks._juicer.lm_config import LanguageModelConfig
from tasks._manifest import StageResult
from tasks._sample_world import DATASETS, SampleWorldConfig
from tasks.acquire import AcquireConfig, acquire
from tasks.clean import CleanConfig, check, clean
from tasks.normalize import NormalizeConfig, normalize
from tests.tasks._running import result_of, run_stage, stage_run

SIMHASH = {"tokenization": "space", "window_size": 6, "num_blocks": 6, "hamming_distance": 4,
           "lowercase": True}  # fmt: skip
TABLE_7: list[tuple[str, dict[str, Any]]] = [
    ("chinese_convert_mapper", {"mode": "t2s"}), ("clean_email_mapper", {}),
    ("clean_html_mapper", {}), ("clean_ip_mapper", {}), ("clean_links_mapper", {}),
    ("clean_copyright_mapper", {}), ("expand_macro_mapper", {}), ("fix_unicode_mapper", {}),
    ("punctuation_normalization_mapper", {}),
    ("remove_repeat_sentences_mapper",
     {"ignore_special_character": True, "min_repeat_sentence_length": 2}),
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
]  # fmt: skip
TABLE_8: list[tuple[str, dict[str, Any]]] = [
    ("clean_copyright_mapper", {}), ("clean_email_mapper", {}), ("clean_links_mapper", {}),
    ("fix_unicode_mapper", {}), ("punctuation_normalization_mapper", {}),
    ("alphanumeric_filter", {"tokenization": True, "min_ratio": 0.546, "max_ratio": 3.65}),
    ("average_line_length_filter", {"min_len": 10, "max_len": 150}),
    ("character_repetition_filter", {"max_ratio": 0.36}),
    ("maximum_line_length_filter", {"max_len": 1000}), ("text_length_filter", {"max_len": 96714}),
    ("words_num_filter", {"min_num": 20, "max_num": 6640}),
    ("word_repetition_filter", {"rep_len": 10, "max_ratio": 0.357}),
    ("document_simhash_deduplicator", SIMHASH),
]  # fmt: skip


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
        check(CleanConfig())
    assert "simhash-pybind (for document_simhash_deduplicator)" in str(caught.value)
    assert "kenlm (for perplexity_filter)" in str(caught.value)


def test_data_juicer_cannot_install_anything() -> None:
    script = (
        "from tasks._juicer.__main__ import _never_install\n"
        "_never_install()\n"
        "from data_juicer.utils.lazy_loader import LazyLoader\n"
        "LazyLoader('no_such_module_of_steel').anything\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "nothing is installed at run time" in done.stderr
    assert _never_install is not None


def test_unknown_recipe_wrong_numbers_and_missing_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="text-repaired"):
        check(CleanConfig(text="txet"))
    with pytest.raises(ConfigError, match="examples"):
        check(CleanConfig(examples=-1))
    with pytest.raises(ConfigError, match="order"):
        check(CleanConfig(language_model=LanguageModelConfig(order=7)))
    with pytest.raises(DataError, match=r"zh\.sp\.model"):
        check(CleanConfig(language_model=LanguageModelConfig(folder=str(tmp_path))))


# --- ledger ----------------------------------------------------------------------------------


def ledger_of(*texts: str) -> Ledger:
    """A mapper that halves texts, then a filter that drops the short ones."""
    ledger = Ledger("text", ["halve", "long"], ["a"], examples=1)
    for text in texts:
        half = text[: len(text) // 2]
        ledger.keep(0, "a", len(text), len(half), changed=half != text)
        ledger.measure(1, "a", "length", len(half))
        if len(half) > 2:
            ledger.keep(1, "a", len(half), len(half))
        else:
            ledger.drop(1, "a", len(half))
    return ledger


def test_ledger_adds_up() -> None:
    ledger = ledger_of("abcdefgh", "abcd")
    ledger.check()
    halve, long = ledger.rows()
    assert (halve["documents_changed"], halve["bytes_edited"]) == (2, 6)
    assert (long["documents_in"], long["documents_kept"], long["documents_dropped"]) == (2, 1, 1)
    assert (long["bytes_in"], long["bytes_kept"], long["bytes_dropped"]) == (6, 4, 2)
    assert ledger.statistics()[0]["q100"] == 4.0


def test_ledger_that_lost_a_document_does_not_add_up() -> None:
    ledger = ledger_of("abcdefgh", "abcd")
    ledger.keep(0, "a", 4, 4)  # never reached the filter
    with pytest.raises(AssertionError):
        ledger.check()


def test_reservoir_is_an_even_sample() -> None:
    reservoir = Reservoir()
    for value in range(100_000):
        reservoir.add(value)
    assert reservoir.seen == 100_000
    assert abs(reservoir.quantiles()["q50"] - 50_000) < 3_000


# --- stage -----------------------------------------------------------------------------------

TRADITIONAL = "這座橋樑連接兩岸，橋頭有一間賣茶葉的老店，店主每天清早開門。"
SIMPLIFIED = "这座桥梁连接两岸,桥头有一间卖茶叶的老店,店主每天清早开门."
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
        "address": f"{SIMPLIFIED}来信寄到 a.person@example.com 或看 https://example.com/a?b=1 。",
        "ip": f"{SIMPLIFIED}服务器在 192.168.10.24 那里。",
        "special": f"◆{SIMPLIFIED}●再说一句别的话。■",
        "repeats": f"{SIMPLIFIED}另外一句话在这里。{SIMPLIFIED}另外一句话在这里。",
        "one-line": prose(rng, 1500),
        "original": long,
        "near-duplicate": edited,
        "exact-duplicate": long,
        "garbage": "!@#$%^&*()_+{}|:<>?~`-=[];',./ " * 4,
        "short": "太短。",
        "stranger-1": "问：谁来了？\n答：是老王来了，他带着一只鸡。",
        "stranger-2": "问：几点了？\n答：已经八点半，快去上学吧。",
    }


def write_source(folder: Path, source: str, texts: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{source}.jsonl").open("w", encoding="utf-8") as file:
        for name, text in texts.items():
            document = {"text": text, "source": source, "id": name, "meta": {"n": 1}}
            file.write(json.dumps(document, ensure_ascii=False) + "\n")


def normalized(folder: Path) -> StageResult:
    return result_of(stage_run(folder))


def documents(path: Path) -> dict[str, dict[str, Any]]:
    return {d["id"]: d for d in map(json.loads, path.read_text("utf-8").splitlines())}


@pytest.fixture(scope="module")
def cleaned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run over planted documents; the language model learns from prose of the same kind."""
    folder = tmp_path_factory.mktemp("clean")
    rng = Random(1)
    encyclopaedia = {f"w{i}": prose(rng, 400) for i in range(60)} | {
        f"t{i}": text for i, text in enumerate([SIMPLIFIED] * 20 + list(planted().values()))
    }
    write_source(folder / "in", "wikipedia_cn", encyclopaedia)
    write_source(folder / "in", "skypile", planted())
    config = CleanConfig(text="text-repaired")
    run_stage(clean, folder / "out", config, normalized=normalized(folder / "in"))
    return folder / "out"


def test_planted_documents_meet_their_fate(cleaned: Path) -> None:
    kept = {name: d["text"] for name, d in documents(cleaned / "skypile.jsonl").items()}
    assert kept.keys() == {
        "traditional", "address", "ip", "special", "repeats", "one-line", "original",
        "stranger-1", "stranger-2",
    }  # fmt: skip
    assert kept["traditional"] == SIMPLIFIED
    assert "@" not in kept["address"] and "http" not in kept["address"]
    assert "192.168" not in kept["ip"]
    assert "◆" not in kept["special"]
    assert kept["repeats"].count("茶叶") == 1
    assert documents(cleaned / "skypile.jsonl")["ip"]["meta"] == {"n": 1}


def test_dropped_documents_are_shown_with_the_operator_that_dropped_them(cleaned: Path) -> None:
    dropped = [json.loads(s) for s in (cleaned / "dropped-examples.jsonl").read_text().splitlines()]
    fate = {d["id"]: d["operator"] for d in dropped if d["source"] == "skypile"}
    assert fate == {
        # The page's text is SIMPLIFIED again, which the first document already says.
        "html": "document_simhash_deduplicator",
        "near-duplicate": "document_simhash_deduplicator",
        "exact-duplicate": "document_simhash_deduplicator",
        "garbage": "special_characters_filter",
        "short": "average_line_length_filter",
    }
    garbage = next(d for d in dropped if d["id"] == "garbage")
    assert garbage["measured"]["special_char_ratio"] > 0.9


def test_ledger_agrees_with_the_files(cleaned: Path) -> None:
    rows = pq.read_table(cleaned / "ledger.parquet").to_pylist()
    assert rows == json.loads((cleaned / "ledger.json").read_text())["rows"]
    assert len(rows) == 2 * len(TABLE_7)
    for source in ("skypile", "wikipedia_cn"):
        mine = [row for row in rows if row["source"] == source]
        texts = [d["text"] for d in documents(cleaned / f"{source}.jsonl").values()]
        assert mine[0]["documents_in"] == len(planted()) + (80 if source == "wikipedia_cn" else 0)
        assert mine[-1]["documents_kept"] == len(texts)
        assert mine[-1]["bytes_kept"] == sum(len(text.encode()) for text in texts)
        for before, after in itertools.pairwise(mine):
            assert after["documents_in"] == before["documents_kept"]
            assert after["bytes_in"] == before["bytes_kept"]
            assert before["documents_in"] == before["documents_kept"] + before["documents_dropped"]


def test_the_finished_folder_says_how_it_was_made(cleaned: Path) -> None:
    assert (cleaned / "recipe-text.yaml").is_file()
    assert {p.name for p in (cleaned / "language_model" / "text").iterdir()} == {
        "zh.sp.model", "zh.arpa.bin",
    }  # fmt: skip
    assert not list(cleaned.glob("*.tmp"))


def test_nothing_to_clean(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no source"):
        run_stage(clean, tmp_path / "out", CleanConfig(), normalized=normalized(tmp_path))


# --- slow ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_source_that_loses_everything_is_refused_and_a_given_model_serves(
    cleaned: Path, tmp_path: Path
) -> None:
    write_source(tmp_path / "in", "skypile", planted())
    write_source(tmp_path / "in", "zhihu", {"a": "短。", "b": "!!!!!!!!!!!!!!!!!!!!!!"})
    model = LanguageModelConfig(folder=str(cleaned / "language_model" / "text"))
    config = CleanConfig(text="text-repaired", language_model=model)
    with pytest.raises(DataError, match="zhihu") as caught:
        run_stage(clean, tmp_path / "out", config, normalized=normalized(tmp_path / "in"))
    assert "average_line_length_filter 1" in str(caught.value)
    assert "text-repaired.yaml" in str(caught.value)
    # The cleaning itself was finished: a second attempt says the same without a new process.
    started = (tmp_path / "out" / "skypile.jsonl").stat().st_mtime_ns
    with pytest.raises(DataError, match="zhihu"):
        run_stage(clean, tmp_path / "out", config, normalized=normalized(tmp_path / "in"))
    assert (tmp_path / "out" / "skypile.jsonl").stat().st_mtime_ns == started


@pytest.mark.slow
def test_error_of_the_process_reaches_the_user(tmp_path: Path) -> None:
    write_source(tmp_path / "in", "skypile", {"a": SIMPLIFIED})
    with pytest.raises(DataError, match=r"clean\.language_model\.sources"):
        run_stage(clean, tmp_path / "out", CleanConfig(), normalized=normalized(tmp_path / "in"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> StageResult:
    """A fifth of the sample world, normalised."""
    folder = tmp_path_factory.mktemp("world")
    datasets = dict.fromkeys(DATASETS["corpora"], "sample-world")
    config = AcquireConfig(
        kind="corpora", datasets=datasets, sample_world=SampleWorldConfig(scale=0.2)
    )
    raw = run_stage(acquire, folder / "raw", config)
    return result_of(
        run_stage(normalize, folder / "normalized", NormalizeConfig(), raw=result_of(raw))
    )


CONFIG = CleanConfig(text="text-repaired")
KILLED = """
import sys
from pathlib import Path
from tasks.clean import CleanConfig, clean
from tests.tasks._running import result_of, run_stage, stage_run
normalized = result_of(stage_run(Path(sys.argv[1])))
run_stage(clean, Path(sys.argv[2]), CleanConfig(text="text-repaired"), normalized=normalized)
"""


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and ".scratch" not in p.parts
    }


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["operators", "documents", "one kind finished"])
def test_kill_and_run_again_equals_an_uninterrupted_run(
    world: StageResult, tmp_path: Path, moment: str
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run_stage(clean, whole, CONFIG, normalized=world)
    root = Path(__file__).resolve().parents[2]
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(world.folder), str(killed)],
        cwd=root, env=os.environ | {"PYTHONPATH": str(root)},
    )  # fmt: skip
    workers: list[psutil.Process] = []

    def reached() -> bool:
        scratch = killed / ".scratch"
        if moment == "one kind finished":
            return any(scratch.glob("ledger-*.json"))
        try:
            return moment in (scratch / "text" / "job.progress").read_text()
        except FileNotFoundError:
            return False

    try:
        while not reached():
            assert child.poll() is None, f"finished before the moment {moment!r} came"
            time.sleep(0.01)
        workers = psutil.Process(child.pid).children(recursive=True)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert not alive, "the cleaning processes die with the one that started them"
    left = content(killed)
    run_stage(clean, killed, CONFIG, normalized=world)
    assert content(killed) == content(whole)
    assert not any(name.endswith(".tmp") for name in content(killed))
    for name, data in left.items():
        if name.endswith(".jsonl"):
            assert data == content(whole)[name], f"{name} was visible before it was complete"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["text", "code"])
def test_kept_documents_are_those_of_dj_process(
    kind: str, world: StageResult, tmp_path: Path
) -> None:
    run = run_stage(clean, tmp_path / "out", CONFIG, normalized=world)
    sources = [s for s, row in run.notes["sources"].items() if row["kind"] == kind]
    ours = {}
    with (tmp_path / "all.jsonl").open("w", encoding="utf-8") as file:
        for source in sources:
            ours |= {i: d["text"] for i, d in documents(run.folder / f"{source}.jsonl").items()}
            for document in documents(world.folder / f"{source}.jsonl").values():
                slim = {"id": document["id"], "text": document["text"]}
                file.write(json.dumps(slim, ensure_ascii=False) + "\n")
    recipe = recipes.load(CONFIG.recipe_of(kind))
    export = tmp_path / "export" / "out.jsonl"
    recipe.write_resolved(tmp_path / "dj.yaml", dataset=tmp_path / "all.jsonl", export=export)
    models = run.folder / "language_model" / "text"
    if kind == "code":
        models = run.scratch / "code" / "models"
    cache = tmp_path / "cache"
    subprocess.run(
        [sys.executable, "-m", "tools.process_data", "--config", str(tmp_path / "dj.yaml")],
        check=True, cwd=tmp_path, capture_output=True,
        env=os.environ | {
            "DATA_JUICER_EXTERNAL_MODELS_HOME": str(models), "HF_HUB_OFFLINE": "1",
            "DATA_JUICER_CACHE_HOME": str(cache), "HF_DATASETS_CACHE": str(cache),
            "UV_OFFLINE": "1", "UV_CACHE_DIR": str(cache / "uv"), "PIP_NO_INDEX": "1",
        },
    )  # fmt: skip
    theirs = {i: d["text"] for i, d in documents(export).items()}
    assert list(theirs.items()) == list(ours.items())


@pytest.mark.slow
def test_real_rows(shared: Path, tmp_path: Path) -> None:
    """The paper's recipe keeps a fifth of the real text; the repaired one three fifths."""
    pretrain = shared / "data" / "pretrain"
    datasets = {
        "skypile": "sky", "wikipedia_cn": "wiki_cn", "baidu_baike": "baidu_baike",
        "firefly": "firefly", "starcoder_java": "starcode/java",
    }  # fmt: skip
    config = AcquireConfig(
        kind="corpora", datasets={name: str(pretrain / p) for name, p in datasets.items()}
    )
    raw = run_stage(acquire, tmp_path / "raw", config)
    documents_in = result_of(
        run_stage(normalize, tmp_path / "norm", NormalizeConfig(), raw=result_of(raw))
    )
    kept: dict[str, Counter[str]] = {}
    for name in ("text", "text-repaired"):
        run = run_stage(clean, tmp_path / name, CleanConfig(text=name), normalized=documents_in)
        assert run.counts["documents_failed"] == 0
        kept[name] = Counter({s: r["documents_kept"] for s, r in run.notes["sources"].items()})
    assert kept["text"]["starcoder_java"] == kept["text-repaired"]["starcoder_java"] > 200
    for source in ("skypile", "wikipedia_cn", "baidu_baike", "firefly"):
        assert 0 < 2 * kept["text"][source] < kept["text-repaired"][source]
