"""Words of a text, in a form that does not depend on how it was typeset, as numbers.

    "Ｘ是（　）。A. 漢語 2㎏"  ──▶  x 是 汉 语 2 kg  ──▶  one 64-bit number a token

    codepoints ──FORM──▶ kind and canonical character ──runs──▶ tokens ──polynomial──▶ hashes

Canonical: NFKC, lower case, accents off, simplified. A character of Chinese, Japanese or Korean is
a token, a run of other letters is one, a run of digits is one; everything else only separates. The
letters A to G alone are labels of options and are left out. All of it is a table lookup per
character, so it is the same in every process.
"""

import functools
import hashlib
import importlib.metadata
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Codes = npt.NDArray[np.uint32]
Hashes = npt.NDArray[np.uint64]
Places = npt.NDArray[np.int64]

NOTHING, LETTER, DIGIT, SINGLE = 0, 1, 2, 3
"""Kinds of characters: between tokens, part of a word, part of a number, a token of its own."""

_KIND_SHIFT = 24
_CHARACTER = np.uint32((1 << _KIND_SHIFT) - 1)
_SEVERAL = np.uint32(1 << 31)
"""Marks a character whose canonical form is none or several; the rest is its row (see Forms)."""

_ENGLISH_NUMERALS = (
    "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety "
    "hundred thousand million billion"
)
_NUMERALS = frozenset("零一二三四五六七八九十百千万两") | frozenset(_ENGLISH_NUMERALS.split())
"""Numbers that are words."""
BREAK = "\x1f"
"""Stands between tokens where they are compared as text; never part of one."""

_NUM_CODES = 0x32400
"""Beyond the last assigned CJK character (extension H); what follows separates."""

_SINGLES = (
    (0x2E80, 0x2FDF),
    (0x3005, 0x3007),
    (0x3021, 0x3029),
    (0x3040, 0x30FF),
    (0x3105, 0x312F),
    (0x31A0, 0x31BF),
    (0x31F0, 0x31FF),
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xAC00, 0xD7A3),
    (0xF900, 0xFAFF),
    (0x1B000, 0x1B16F),
    (0x20000, 0x323AF),
)

_ALSO = str.maketrans(
    "著覆瞭座藉俱像炼彷揹伕甦敍衞睪簷痺枱薰菓", "着复了坐借具象链仿背夫苏叙卫睾檐痹台熏果"
)
"""Characters that OpenCC turns back only inside a known phrase (瞭解), or not at all (著): what the
questions of C-Eval and CMMLU lost on the way to s2t, s2tw or s2hk and back."""

_P = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2^64
_Q = 0xD1B54A32D192ED03
_MIX = np.uint64(0xFF51AFD7ED558CCD)
_LABELS = tuple(np.uint64(LETTER << _KIND_SHIFT | ord(letter)) for letter in "ag")


@dataclass(frozen=True)
class Forms:
    """Canonical form of each character."""

    table: Codes
    """Codepoint -> kind and canonical character, or `_SEVERAL` and a row of the arrays below."""
    counts: Places
    """Row -> number of canonical characters."""
    offsets: Places
    """Row -> place of the first one in `expansions`."""
    expansions: Codes
    """Canonical characters with their kinds."""

    @functools.cached_property
    def digest(self) -> str:
        """Changes with anything in the tables: an index serves only the tables that made it."""
        content = (self.table, self.counts, self.expansions)
        return hashlib.sha256(b"".join(part.tobytes() for part in content)).hexdigest()[:16]


@dataclass(frozen=True)
class Tokens:
    """A text's tokens."""

    hashes: Hashes
    """One number a token."""
    codes: Codes
    """Canonical characters with their kinds; 0 between tokens."""
    firsts: Places
    """Index in `codes` at which each token begins."""
    origin: Places | None
    """Place in the text of each of `codes`; None where they are the same."""

    @functools.cached_property
    def _ends(self) -> Places:
        """Index in `codes` at which each token ends."""
        kinds = self.codes >> _KIND_SHIFT
        breaks = np.flatnonzero((kinds[1:] != kinds[:-1]) | (kinds[1:] == SINGLE)) + 1
        breaks = np.append(breaks, len(kinds))
        ends: Places = breaks[np.searchsorted(breaks, self.firsts, side="right")]
        return ends

    @functools.cached_property
    def _joined(self) -> tuple[str, Places]:
        """Every token between two breaks, and where each begins; one more at the end."""
        sizes = self._ends - self.firsts
        begins = np.cumsum(np.append(0, sizes + 1)) + 1
        text = np.full(int(begins[-1]), ord(BREAK), np.uint32)
        inner = np.arange(int(sizes.sum())) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        characters = self.codes[np.repeat(self.firsts, sizes) + inner] & _CHARACTER
        text[np.repeat(begins[:-1], sizes) + inner] = characters
        return text.tobytes().decode("utf-32-le"), begins

    def window(self, first: int, last: int) -> str:
        """The canonical text of tokens first to last - 1, a break before and after each."""
        text, begins = self._joined
        return text[int(begins[first]) - 1 : int(begins[last])]

    @functools.cached_property
    def spaced(self) -> npt.NDArray[np.bool_]:
        """True for tokens of several letters or digits, False for those of one character."""
        kinds: npt.NDArray[np.bool_] = self.codes[self.firsts] >> _KIND_SHIFT != SINGLE
        return kinds

    def strings(self, first: int = 0, last: int | None = None) -> tuple[str, ...]:
        """The canonical text of each token, of all or of tokens first to last - 1."""
        last = len(self.firsts) if last is None else last
        return tuple(self.window(first, last).split(BREAK)[1:-1])

    def span(self, first: int, last: int) -> tuple[int, int]:
        """Begin and end in the text of tokens first to last - 1."""
        begin, end = int(self.firsts[first]), int(self._ends[last - 1]) - 1
        if self.origin is not None:
            begin, end = int(self.origin[begin]), int(self.origin[end])
        return begin, end + 1


def tokenize(text: str) -> Tokens:
    """The tokens of a text. Half a surrogate pair separates tokens, like punctuation."""
    forms = _forms()
    raw = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    codes = forms.table[np.minimum(raw, _NUM_CODES - 1)]
    origin: Places | None = None
    if len(codes) and int(codes.max()) >= int(_SEVERAL):
        codes, origin = _expanded(forms, codes)
    kinds = codes >> _KIND_SHIFT
    begins_token = kinds != NOTHING
    begins_token[1:] &= (kinds[1:] != kinds[:-1]) | (kinds[1:] == SINGLE)
    firsts = np.flatnonzero(begins_token)
    if not len(firsts):
        return Tokens(np.zeros(0, np.uint64), codes, firsts, origin)
    powers, inverses = _powers(len(codes), _P)
    hashes = np.add.reduceat(codes * powers, firsts) * inverses[firsts]
    kept = (hashes < _LABELS[0]) | (hashes > _LABELS[1])
    if not kept.all():
        firsts, hashes = firsts[kept], hashes[kept]
    return Tokens(_mixed(hashes), codes, firsts, origin)


def is_number(token: str) -> bool:
    """True for a number, in digits or as a word: another one asks something else."""
    return token.isdigit() or token in _NUMERALS


def ngrams(hashes: Hashes, length: int) -> Hashes:
    """Hash of each run of `length` tokens, by the place of its first."""
    count = len(hashes) - length + 1
    if count <= 0:
        return np.zeros(0, np.uint64)
    powers, inverses = _powers(len(hashes), _Q)
    sums = np.cumsum(hashes * powers, dtype=np.uint64)
    spans = sums[length - 1 :].copy()
    spans[1:] -= sums[: count - 1]
    return _mixed(spans * inverses[:count])


def ngrams_at(hashes: Hashes, places: Places, length: int) -> Hashes:
    """The hashes of `ngrams` of some runs, given by the places of their first tokens."""
    powers, _ = _powers(length, _Q)
    sums = hashes[places]
    for k in range(1, length):
        sums += hashes[places + k] * powers[k]
    return _mixed(sums)


def _mixed(hashes: Hashes) -> Hashes:
    """Every bit of a hash made to depend on every other; in place."""
    hashes ^= hashes >> np.uint64(33)
    hashes *= _MIX
    hashes ^= hashes >> np.uint64(33)
    return hashes


_POWERS: dict[int, tuple[Hashes, Hashes]] = {}


def _powers(count: int, base: int) -> tuple[Hashes, Hashes]:
    """base^0 … base^(count-1) and their inverses, modulo 2^64."""
    known = _POWERS.get(base)
    if known is None or len(known[0]) < count:
        size = max(1 << 12, 1 << (count - 1).bit_length())
        pair = []
        for factor in (base, pow(base, -1, 1 << 64)):
            powers = np.full(size, factor, np.uint64)
            powers[0] = 1
            pair.append(np.multiply.accumulate(powers))
        known = _POWERS[base] = (pair[0], pair[1])
    return known[0][:count], known[1][:count]


def _expanded(forms: Forms, codes: Codes) -> tuple[Codes, Places]:
    """Codes with every character replaced by its several ones, and where each came from."""
    several = codes >= _SEVERAL
    rows = codes[several] & ~_SEVERAL
    counts = np.ones(len(codes), np.int64)
    counts[several] = forms.counts[rows]
    origin = np.repeat(np.arange(len(codes)), counts)
    expanded = codes[origin]
    inner = np.arange(len(origin)) - np.repeat(np.cumsum(counts) - counts, counts)
    places = np.flatnonzero(expanded >= _SEVERAL)
    row = expanded[places] & ~_SEVERAL
    expanded[places] = forms.expansions[forms.offsets[row] + inner[places]]
    return expanded, origin


def forms_digest() -> str:
    """Of the tables of this process: Unicode's and OpenCC's versions decide them."""
    return _forms().digest


def forms_versions() -> list[str]:
    """Versions of Unicode and OpenCC in this process."""
    return [unicodedata.unidata_version, importlib.metadata.version("opencc")]


def forms_arrays() -> dict[str, npt.NDArray[Any]]:
    """The tables of this process by name, to be kept in a file."""
    return {f"forms_{name}": array for name, array in vars(_forms()).items() if name != "digest"}


def take_forms(arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Use tables that `forms_arrays` gave in a process of the same versions; not if it has some.

    Making them takes most of a second of each process.
    """
    if not _made:
        _made.append(Forms(**{name: arrays[f"forms_{name}"] for name in _FORM_NAMES}))


_made: list[Forms] = []
"""The tables of this process, once they are there."""
_FORM_NAMES = ("table", "counts", "offsets", "expansions")


def _forms() -> Forms:
    if not _made:
        _made.append(_make_forms())
    return _made[0]


def _make_forms() -> Forms:
    from opencc import OpenCC

    canonical = [_canonical(code) for code in range(_NUM_CODES)]
    # A line for each, so that no phrase of OpenCC's reaches from one into the next.
    simplified = OpenCC("t2s").convert("\n".join(canonical)).translate(_ALSO).split("\n")
    assert len(simplified) == _NUM_CODES
    table = np.zeros(_NUM_CODES, np.uint32)
    counts: list[int] = []
    offsets: list[int] = []
    expansions: list[int] = []
    for code, form in enumerate(simplified):
        marked = [_marked(character) for character in form]
        if len(marked) == 1:
            table[code] = marked[0]
        elif len(marked) > 1 or unicodedata.category(chr(code)) in ("Mn", "Me", "Cf"):
            # An accent or an invisible character does not end a word; every other blank does.
            table[code] = _SEVERAL | np.uint32(len(counts))
            counts.append(len(marked))
            offsets.append(len(expansions))
            expansions += marked
    return Forms(
        table=table,
        counts=np.array(counts, np.int64),
        offsets=np.array(offsets, np.int64),
        expansions=np.array([*expansions, 0], np.uint32),
    )


def _canonical(code: int) -> str:
    """NFKC, lower case, accents off; empty for what only separates."""
    if 0xD800 <= code < 0xE000:
        return ""
    form = ""
    for character in unicodedata.normalize("NFKC", chr(code)).lower():
        base = unicodedata.normalize("NFD", character)
        bare = "".join(c for c in base if not unicodedata.category(c).startswith("M"))
        form += bare if len(bare) <= 1 else character
    return form if any(_kind(character) for character in form) else ""


def _marked(character: str) -> int:
    return _kind(character) << _KIND_SHIFT | ord(character) if _kind(character) else 0


def _kind(character: str) -> int:
    code = ord(character)
    if any(low <= code <= high for low, high in _SINGLES):
        return SINGLE if unicodedata.category(character)[0] in "LN" else NOTHING
    category = unicodedata.category(character)
    if category == "Nd":
        return DIGIT
    return LETTER if category[0] in "LN" else NOTHING
