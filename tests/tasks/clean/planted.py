"""Documents planted into sources, and readers of what cleaning made of them."""

import json
from pathlib import Path
from random import Random
from typing import Any

import pyarrow.parquet as pq

from corpus.cleaning.language_model.config import LanguageModelConfig
from tasks.clean import CleanConfig
from tasks.core.manifest import StageResult
from tests.tasks.running import data_sets, result_of, stage_run

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
    """Documents of which it is known what happens to them."""
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
        "question": "\n".join([prose(rng, 70), QUESTION, *OPTIONS, prose(rng, 70)]),
        "article": "\n".join([prose(rng, 500), QUESTION, *OPTIONS, prose(rng, 500)]),
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


def benchmarks(folder: Path) -> dict[str, StageResult]:
    """CMMLU with one question."""
    for split in ("dev", "test"):
        path = folder / "cmmlu" / split / "anatomy.csv"
        path.parent.mkdir(parents=True)
        text = QUESTION if split == "test" else "骨骼分为几类"
        row = ",".join(["0", text, *OPTIONS, "A"])
        path.write_text(f",Question,A,B,C,D,Answer\n{row}\n")
    return data_sets(result_of(stage_run(folder)))


def normalized(folder: Path) -> StageResult:
    return result_of(stage_run(folder))


def documents(path: Path) -> dict[str, dict[str, Any]]:
    return {d["id"]: d for d in map(json.loads, path.read_text("utf-8").splitlines())}


def kept(folder: Path, source: str) -> dict[str, dict[str, Any]]:
    """Cleaned documents of a source, by their id without the source."""
    return {
        i.partition("/")[2]: d
        for path in sorted((folder / source).glob("*.jsonl"))
        for i, d in documents(path).items()
    }


def ids_of(path: Path) -> list[str]:
    return list(pq.read_table(path)["id"].to_pylist())


def given(cleaned: StageResult) -> LanguageModelConfig:
    """The language model that an earlier run has trained."""
    return LanguageModelConfig(folder=str(cleaned.folder / "language_model"))


CONFIG = CleanConfig(workers=1, partition_bytes=1 << 20, recipes="repaired")


ROOT = Path(__file__).resolve().parents[3]


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and ".scratch" not in p.parts
    }
