"""Copies are verified, never chained, and found whatever the number of workers."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus.cleaning.deduplication import band_buckets, near_duplicates, verified_copies
from corpus.cleaning.deduplication.band_buckets import KEYS, find_buckets
from corpus.cleaning.deduplication.survivor_texts import SurvivorTexts, write_ends
from corpus.cleaning.deduplication.verified_copies import CopyFinder
from corpus.cleaning.fast.minhash import MinHash, common_in_order, jaccard


def parameters(bands: int, rows: int, window: int = 5) -> MinHash:
    return MinHash(
        SimpleNamespace(
            tokenization="character",
            lowercase=True,
            ignore_pattern=regex.compile(r"[\W_]"),
            window_size=window,
            num_bands=bands,
            num_rows_per_band=rows,
        )
    )


SURE = parameters(bands=64, rows=1)
"""Bands of one row, 64 of them: a pair of similarity 0.5 is missed once in 10^19."""
SHIPPED = parameters(bands=32, rows=8)


def copies_of(
    texts: Sequence[str],
    folder: Path,
    *,
    minhash: MinHash = SURE,
    threshold: float = 0.7,
    files: int = 1,
    rows: Sequence[int] | None = None,
    workers: int = 1,
    comparisons: int = 10**6,
) -> dict[int, tuple[int, float]]:
    """Document -> the kept one that it is a copy of, and their similarity."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, at in enumerate(np.array_split(np.arange(len(texts)), files)):
        keys = minhash.band_keys([texts[i] for i in at]).astype("<u8")
        column = pa.array([row.tobytes() for row in keys], pa.binary(8 * minhash.bands))
        paths.append(folder / f"keys-{number}.parquet")
        pq.write_table(pa.table({KEYS: column}), paths[-1])
    numbers = np.arange(len(texts)) if rows is None else np.array(rows, np.int64)
    finder = CopyFinder(
        minhash=minhash,
        threshold=threshold,
        buckets=find_buckets(
            paths, None if rows is None else numbers, minhash.bands, folder / "buckets"
        ),
        text=lambda number: texts[int(numbers[number])],
        scratch=folder,
        comparisons=comparisons,
    )
    found = [row for part in finder.find(workers, lambda: None) for row in part.tolist()]
    return {int(numbers[copy]): (int(numbers[kept]), alike) for copy, kept, alike in found}


def greedy(
    texts: Sequence[str], threshold: float, minhash: MinHash = SURE, *, edits: bool = True
) -> set[int]:
    """Copies by comparing every document with every kept one before it."""
    kept: list[int] = []
    shingles = [minhash.shingles(text) for text in texts]
    for number in range(len(texts)):
        for other in kept:
            similarity = jaccard(shingles[number], shingles[other])
            if similarity >= threshold or (
                edits
                and similarity >= 2 / 3 * threshold
                and in_order(texts[number], texts[other]) >= 0.95
            ):
                break
        else:
            kept.append(number)
    return set(range(len(texts))) - set(kept)


def in_order(one: str, other: str) -> float:
    """Characters that both have in the same order, of the longer one's, by the plain table."""
    row = [0] * (len(other) + 1)
    for character in one:
        before = row
        row = [0]
        for j, against in enumerate(other):
            longest = max(before[j + 1], row[j])
            row.append(max(longest, before[j] + (character == against)))
    return row[-1] / max(len(one), len(other), 1)


@given(st.text("abcd", max_size=30), st.text("abcd", max_size=30))
def test_common_tokens_in_order(one: str, other: str) -> None:
    exact = common_in_order(SURE.tokens(one), SURE.tokens(other))
    assert exact == in_order(one, other)


def edited(text: str, rate: float, rng: random.Random) -> str:
    return "".join(chr(rng.randrange(0x4E00, 0x9FA5)) if rng.random() < rate else c for c in text)


def stranger(rng: random.Random, length: int = 300) -> str:
    return edited("x" * length, 2.0, rng)


def test_a_short_text_is_a_copy_only_of_one_that_has_all_of_it(tmp_path: Path) -> None:
    texts = [
        "海南大学2008年高考录取结果查询",
        "重庆大学2008年高考录取结果查询",
        "海南大学2008年高考录取结果查询（图）",
        "江西师范大学2010年高考录取结果查询系统开通",
        "山西师范大学2010年高考录取结果查询系统开通",
        "江西师范大学 2010 年高考录取结果查询系统开通！",
        long := stranger(random.Random(1)),
        "山" + long[1:],
    ]
    assert {n: kept for n, (kept, _) in copies_of(texts, tmp_path).items()} == {2: 0, 5: 3, 7: 6}


def test_small_edits_all_over_make_a_copy_other_numbers_do_not(tmp_path: Path) -> None:
    rng = random.Random(9)
    digits = "".join(f"{k}月{k * 7 % 31}日" for k in range(1, 13))
    originals = [f"{stranger(rng, 500)}{digits}{stranger(rng, 500)}" for _ in range(20)]
    edits = [edited(text, 0.03, rng) for text in originals]
    found = copies_of(originals + edits, tmp_path / "edited", threshold=0.8)
    assert {copy: kept for copy, (kept, _) in found.items()} == {20 + i: i for i in range(20)}
    assert any(similarity < 0.8 for _, similarity in found.values())
    numbers = [
        edited(text.replace(digits, "".join(rng.choices("0123456789", k=len(digits)))), 0.03, rng)
        for text in originals
    ]
    assert copies_of(originals + numbers, tmp_path / "numbers", threshold=0.8) == {}


@settings(max_examples=15)
@given(
    seed=st.integers(0, 2**32),
    rates=st.lists(st.tuples(st.integers(0, 30), st.floats(0, 0.08)), max_size=25),
    threshold=st.sampled_from([0.5, 0.7, 0.9]),
    files=st.integers(1, 3),
)
def test_copies_are_those_of_comparing_everything(
    seed: int,
    rates: list[tuple[int, float]],
    threshold: float,
    files: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Families of documents edited from one another, so that there are chains."""
    rng = random.Random(seed)
    texts = [stranger(rng, 120)]
    for parent, rate in rates:
        texts.append(edited(texts[parent % len(texts)], rate, rng))
    found = copies_of(texts, tmp_path_factory.mktemp("copies"), threshold=threshold, files=files)
    assert set(found) == greedy(texts, threshold)
    for copy, (kept, similarity) in found.items():
        assert kept not in found
        assert kept < copy
        exact = jaccard(SURE.shingles(texts[kept]), SURE.shingles(texts[copy]))
        assert similarity == exact
        assert exact >= 2 / 3 * threshold
        assert exact >= threshold or in_order(texts[kept], texts[copy]) >= 0.95


def weather(rng: random.Random) -> str:
    """A page of a template in which numbers differ."""
    city = rng.choice(["北京", "上海", "广州", "成都", "武汉", "西安", "南京", "重庆", "天津"])
    days = "".join(
        f"{month}月{rng.randint(1, 28)}日{rng.choice(['晴', '多云', '小雨'])}，"
        f"气温{rng.randint(1, 9)}到{rng.randint(10, 19)}摄氏度，微风{rng.randint(1, 3)}级。"
        for month in (3, 4)
    )
    return (
        f"{city}市气象台为您播报未来两天的天气预报，请广大市民朋友们注意查收。{days}"
        "气象专家温馨提示：早晚温差较大，请及时增减衣物，谨防感冒；外出请携带雨具，注意交通安全。"
    )


def test_pages_of_a_template_do_not_chain(tmp_path: Path) -> None:
    rng = random.Random(1)
    texts = [weather(rng) for _ in range(1500)]
    found = copies_of(texts, tmp_path, minhash=SHIPPED, comparisons=verified_copies.COMPARISONS)
    assert 300 < len(found) < 1500
    shingles = [SHIPPED.shingles(text) for text in texts]
    assert all(jaccard(shingles[a], shingles[b]) >= 0.7 for a, (b, _) in found.items())
    assert not found.keys() & {kept for kept, _ in found.values()}
    # Some copies stay where comparisons are bounded; few.
    assert len(found) > 0.8 * len(greedy(texts, 0.7, edits=False))


def test_the_number_of_comparisons_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(2)
    texts = [weather(rng) for _ in range(400)]
    compared: list[int] = []

    def compare(*pair: npt.NDArray[np.uint64]) -> float:
        compared.append(1)
        return jaccard(*pair)

    monkeypatch.setattr(verified_copies, "jaccard", compare)
    copies_of(texts, tmp_path / "few", threshold=0.95, comparisons=3)
    assert 0 < len(compared) <= 3 * len(texts)
    compared.clear()
    copies_of(texts, tmp_path / "many", threshold=0.95)
    assert len(compared) > 10 * len(texts)


FOOTER = (
    "版权所有未经授权不得转载本网站刊载的所有内容包括但不限于文字图片音频视频软件程序以及版式设计等"
    "均受中华人民共和国著作权法商标法专利法及适用之国际公约中有关规定的保护任何单位或个人未经许可"
    "不得以任何方式复制下载修改传播或用于商业用途违者将依法追究其法律责任如有疑问请联系网站管理员"
    "举报电话违法和不良信息举报中心网络文化经营许可证互联网新闻信息服务许可证广播电视节目制作经营"
    "许可证增值电信业务经营许可证信息网络传播视听节目许可证出版物经营许可证营业执照食品经营许可证"
    "关于我们联系我们广告服务友情链接网站地图隐私政策用户协议免责声明投稿指南招聘信息意见反馈帮助"
)


def test_strangers_with_the_same_boilerplate_stay(tmp_path: Path) -> None:
    rng = random.Random(3)
    texts = [f"{stranger(rng, rng.randint(120, 400))}\n{FOOTER}" for _ in range(200)]
    assert copies_of(texts, tmp_path, minhash=SHIPPED) == {}


SITE = [FOOTER[k : k + 30] for k in range(0, len(FOOTER), 30)]
MASTHEADS = (
    "首页 > 新闻 > 正文",
    "当前位置：资讯中心",
    "字体：大 中 小 打印本页",
    "来源：晚报 编辑：小陈",
)
ENDS = (
    "上一篇：如何选择\n版权所有 © 2018 京ICP备00000000号",
    "责任编辑：小林\n【打印】【关闭】",
    "扫一扫关注公众号",
)


@pytest.mark.parametrize("footer", [FOOTER, "\n".join(SITE), f"{FOOTER}\n\n{FOOTER}"])
@pytest.mark.parametrize("length", [8, 20, 40, 65])
def test_short_pages_of_a_site_with_a_long_footer_stay(
    footer: str, length: int, tmp_path: Path
) -> None:
    rng = random.Random(length)
    bodies = [stranger(rng, length) for _ in range(60)]
    texts = [f"{body}\n{footer}" for body in bodies]
    assert copies_of(texts, tmp_path / "strangers", minhash=SHIPPED) == {}
    again = copies_of([*texts, *texts[:20]], tmp_path / "again", minhash=SHIPPED)
    assert {copy: kept for copy, (kept, _) in again.items()} == {60 + i: i for i in range(20)}


def test_an_article_that_several_sites_print_is_a_copy(tmp_path: Path) -> None:
    """Mirrors: another masthead, another footer, the article in one line or in several."""
    rng = random.Random(8)
    texts = []
    for _ in range(20):
        article = "\n".join(stranger(rng, rng.randint(60, 200)) for _ in range(4))
        mirrors = zip(MASTHEADS, (*ENDS, ""), strict=True)
        texts += [f"{masthead}\n{article}\n{end}" for masthead, end in mirrors]
    found = copies_of(texts, tmp_path, minhash=SHIPPED)
    assert {copy: kept for copy, (kept, _) in found.items()} == {
        4 * i + k: 4 * i for i in range(20) for k in (1, 2, 3)
    }


@pytest.mark.parametrize("rate", [0.0, 0.01, 0.02])
def test_edited_copies_are_found(rate: float, tmp_path: Path) -> None:
    rng = random.Random(4)
    originals = [stranger(rng, 600) for _ in range(150)]
    texts = originals + [edited(text, rate, rng) for text in originals]
    found = copies_of(texts, tmp_path, minhash=SHIPPED)
    assert {copy: kept for copy, (kept, _) in found.items()}.items() <= {
        (150 + i, i) for i in range(150)
    }
    assert len(found) >= 147


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slices, chunks and tasks of a few documents."""
    for module in (near_duplicates, verified_copies):
        monkeypatch.setattr(module, "CHUNK", 7)
    monkeypatch.setattr(near_duplicates, "SLICE", 16)
    monkeypatch.setattr(verified_copies, "TASK", 5)
    monkeypatch.setattr(verified_copies, "CACHE_BYTES", 5000)


def family_texts(count: int) -> list[str]:
    rng = random.Random(5)
    roots = [stranger(rng, 150) for _ in range(8)]
    return [edited(rng.choice(roots), rng.choice((0, 0.01, 0.03)), rng) for _ in range(count)]


def test_slices_workers_and_files_change_nothing(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    texts = family_texts(90)
    whole = copies_of(texts, tmp_path / "whole")
    assert len(whole) > 40
    request.getfixturevalue("small")
    for workers, files in ((1, 1), (2, 3), (3, 7)):
        folder = tmp_path / f"{workers}-{files}"
        assert copies_of(texts, folder, workers=workers, files=files) == whole
        assert len(list(folder.glob("copies-*.npy"))) > 5


def test_documents_that_take_no_part_are_left_out(tmp_path: Path) -> None:
    texts = family_texts(40)
    rows = [i for i in range(40) if i % 3]
    found = copies_of(texts, tmp_path, files=4, rows=rows)
    alone = copies_of([texts[i] for i in rows], tmp_path / "alone")
    assert found == {rows[a]: (rows[b], s) for a, (b, s) in alone.items()}


@pytest.mark.usefixtures("small")
def test_an_interrupted_search_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = family_texts(60)
    whole = copies_of(texts, tmp_path / "whole")

    def interrupting(after: int) -> Callable[..., float]:
        left = iter(range(after))

        def compare(*pair: npt.NDArray[np.uint64]) -> float:
            if next(left, None) is None:
                raise KeyboardInterrupt
            return jaccard(*pair)

        return compare

    folder = tmp_path / "interrupted"
    for after in (3, 10, 20):
        monkeypatch.setattr(verified_copies, "jaccard", interrupting(after))
        with pytest.raises(KeyboardInterrupt):
            copies_of(texts, folder)
    monkeypatch.setattr(verified_copies, "jaccard", jaccard)
    monkeypatch.setattr(band_buckets, "_gather", None)  # buckets are not looked for again
    assert copies_of(texts, folder) == whole


@pytest.mark.parametrize("texts", [[], ["一页"], ["甲", "乙", "丙"]])
def test_few_documents(texts: list[str], tmp_path: Path) -> None:
    assert copies_of(texts, tmp_path) == {}


def test_a_bucket_remembers_the_preferred_documents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(band_buckets, "KEPT_PER_BUCKET", 2)
    rng = random.Random(6)
    first = stranger(rng)
    texts = [first, *(edited(first, 0.08, rng) for _ in range(20)), first]
    assert copies_of(texts, tmp_path)[21] == (0, 1.0)


def test_texts_are_read_from_where_they_lie(tmp_path: Path) -> None:
    texts = [["一", "二" * 500], [], ["", "四\n四"], ["五"]]
    folders = []
    for number, own in enumerate(texts):
        folder = tmp_path / str(number)
        folder.mkdir()
        lines = [f'{{"id": "x", "text": {json_text(text)}}}\n'.encode() for text in own]
        (folder / "kept.jsonl").write_bytes(b"".join(lines))
        (folder / "counts.json").write_text(f'{{"survivors": {len(own)}}}')
        write_ends(folder, [len(line) for line in lines])
        folders.append(folder)
    survivors = SurvivorTexts(folders)
    assert [survivors[i] for i in (4, 0, 3, 1, 2)] == ["五", "一", "四\n四", "二" * 500, ""]


def json_text(text: str) -> str:
    return '"' + text.replace("\n", "\\n") + '"'
