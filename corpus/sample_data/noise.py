"""Noise: the faults of real crawled text, put into generated text on purpose.

Every `NOISE_INTERVAL`-th document of a corpus gets one kind of noise, kind after kind, so that each
kind is in every corpus of some size and the rates don't depend on the seed:

    document 0  1  2  3  4  5  6  7  8  9 10 11 …
             ·  ·  ·  ·  html  ·  ·  ·  ·  e-mail  ·  · …
"""

from collections.abc import Callable, Iterator, Sequence
from random import Random

from corpus.sample_data.phrases import phrases

NOISE_INTERVAL = 5
"""One document in so many is noisy."""

_TEXTS = phrases("noise")


def _insert(rng: Random, text: str, piece: str) -> str:
    """`text` with `piece` on a line of its own between two lines, or at the end."""
    lines = text.split("\n")
    lines.insert(rng.randint(1, len(lines)), piece)
    return "\n".join(lines)


def html(rng: Random, text: str) -> str:
    """Tags, entities and a heading around the text."""
    lines = "".join(_TEXTS["html"]["line"].format(line=line) for line in text.split("\n"))
    return str(_TEXTS["html"]["page"].format(lines=lines))


def email(rng: Random, text: str) -> str:
    """A contact line with an address."""
    return _insert(rng, text, _TEXTS["email"].format(number=rng.randint(1, 99)))


def link(rng: Random, text: str) -> str:
    """Links in running text."""
    return _insert(rng, text, _TEXTS["link"].format(number=rng.randint(1000, 9999)))


def ip(rng: Random, text: str) -> str:
    """An IP address, as forums print it."""
    address = ".".join(str(rng.randint(1, 254)) for _ in range(4))
    return _insert(rng, text, _TEXTS["ip"].format(address=address))


def mojibake(rng: Random, text: str) -> str:
    """UTF-8 read as Windows-1252, once over."""
    sample = rng.choice(_TEXTS["mojibake_samples"])
    broken = sample.encode().decode("cp1252", errors="ignore")
    return _insert(rng, text, _TEXTS["mojibake"].format(broken=broken))


def latex(rng: Random, text: str) -> str:
    """A macro, defined and used."""
    last = _TEXTS["latex"]["last"].replace("NUMBER", str(rng.randint(2, 9)))
    return "\n".join((_TEXTS["latex"]["first"], text, last))


def repeated(rng: Random, text: str) -> str:
    """The last line three times over."""
    last = text.split("\n")[-1]
    return "\n".join((text, last, last))


def long_line(rng: Random, text: str) -> str:
    """Everything on one line of more than 1,000 characters."""
    line = text.replace("\n", "")
    return line + line[::-1] * (1100 // max(1, len(line)) + 1)


def glyphs(rng: Random, text: str) -> str:
    """Bullets and boxes before each line."""
    return "\n".join(rng.choice(_TEXTS["glyphs"]) + line for line in text.split("\n"))


def copyright_notice(rng: Random, text: str) -> str:
    """A line about rights at the end."""
    return f"{text}\n{_TEXTS['copyright_notice']}"


def symbols(rng: Random, text: str) -> str:
    """More punctuation than text, as in a broken table."""
    return "\n".join(_TEXTS["symbols"].format(line=line[:6]) for line in text.split("\n"))


def short(rng: Random, text: str) -> str:
    """One or two characters instead of the text."""
    return str(rng.choice(_TEXTS["short"]))


TEXT_NOISE: dict[str, Callable[[Random, str], str]] = {
    function.__name__: function
    for function in (
        html,
        email,
        link,
        ip,
        mojibake,
        latex,
        repeated,
        long_line,
        glyphs,
        copyright_notice,
        symbols,
        short,
    )
}
"""Kinds of noise inside a text. `add_noise` makes near-duplicates beside them."""


def near_duplicate(rng: Random, text: str) -> str:
    """`text` with another last character: one shingle differs, whatever its width."""
    return text[:-1] + str(rng.choice(_TEXTS["last_characters"]))


def add_noise(rng: Random, texts: Sequence[str], *, offset: int = 0) -> Iterator[str]:
    """Yield the texts in order, one in `NOISE_INTERVAL` with noise. `offset`: the first kind."""
    kinds = [*TEXT_NOISE, "near_duplicate"]
    for index, text in enumerate(texts):
        if index % NOISE_INTERVAL != NOISE_INTERVAL - 1:
            yield text
            continue
        kind = kinds[(index // NOISE_INTERVAL + offset) % len(kinds)]
        if kind == "near_duplicate":
            yield near_duplicate(rng, texts[index - 1])
        else:
            yield TEXT_NOISE[kind](rng, text)


MALFORMED = (
    '{"text": "这一行没有写完'.encode(),
    b"{'text': 'single quotes are no JSON'}",
    b'{"text": "\xff\xfe not UTF-8 \xd6\xd0\xce\xc4"}',
    b"",
    b"null",
)
"""Lines that hold no record: cut off, wrong quotes, wrong encoding, nothing, no object."""


def with_malformed(rng: Random, lines: Sequence[bytes]) -> list[bytes]:
    """JSON lines with every kind of malformed line among them, anywhere but first."""
    mixed = list(lines)
    for bad in MALFORMED:
        mixed.insert(rng.randint(1, len(mixed)), bad)
    return mixed


def add_code_noise(rng: Random, language: str, files: Sequence[str]) -> Iterator[str]:
    """Yield source files with the additions of public repositories.

    Two in five begin with a copyright notice, one in three with StarCoder's own tags; one in
    fifteen is a near copy of the one before, one in fifteen has one endless line, one in thirty is
    empty.
    """
    for index, text in enumerate(files):
        if index % 15 == 9:
            yield files[index - 1].replace("3", "4", 1) + "\n"
            continue
        if index % 15 == 14:
            numbers = ", ".join(str(rng.randint(100, 999)) for _ in range(400))
            yield f"{text}\n{'#' if language == 'python' else '//'} {numbers}\n"
            continue
        if index % 30 == 7:
            yield "\n"
            continue
        if index % 5 < 2:
            mail = f"dev{rng.randint(1, 30)}@valley.example.com"
            header = _TEXTS["code_headers"][language]
            text = header.format(year=rng.randint(2015, 2023), mail=mail) + text
        if index % 3 == 0:
            text = f"<reponame>valley/tools<filename>src/file{index}<gh_stars>1-10\n{text}"
        yield text
