"""Values and bytes that a configuration may be made of: kinds of trouble, and arbitrary ones."""

import functools
from typing import Any

from hypothesis import strategies as st

# ── values ───────────────────────────────────────────────────────────────────────────────────────

NUMBERS = [
    *(0, -1, 1, 2, 3, 7, 64, 10**4, 10**9, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64),
    *(10**15 + 1, 10**30, -(10**30), 10**299, 10**310),
    *(0.0, -0.0, 0.5, 1.0, 1e-300, 5e-324, 1e9, 1e16, 1e308, -1e308, 1.5),
    *(float("inf"), float("-inf"), float("nan"), True, False, None),
]
TEXTS = [
    *("", " ", "\0", "a\0b", "\x1b[31mred", "\n", "a\nb", "\u202e", "é" * 300, "😀", "x" * 4000),
    *("x" * 200_000, "/", ".", "..", "../..", "~", "~nobody-there/x", "/dev/zero", "/dev/null"),
    *("/proc/self/mem", "/proc", "deployments", "deployments/smoke.yaml", "pyproject.toml/x"),
    *("a" * 300, "/".join(["a" * 200] * 30), "**", "**a", "[", "*.jsonl", "tests/**/**/**/*"),
    *("http://[", "https://me:secret-word@host/x", "s3://", "hf://", "ftp://x/y", "file:///etc"),
    *("://", "hub", "sample-data", "auto", "no", "yes", "1e9", "3", "0x10", "12:30", "null"),
    *("{}", "[]", "!!python/none x", "*a", "&a b", "<<", "- ", ": ", "%", "@", "`", "true"),
    *("smoke-chinese", "curated", "skypile", "../corpora/skypile", "CON", "a:b", "-x", "--help"),
]
SCALARS = st.one_of(
    st.sampled_from(NUMBERS),
    st.sampled_from(TEXTS),
    st.integers(-(10**40), 10**40),
    st.floats(),
    st.text(max_size=20),
)
VALUES: st.SearchStrategy[Any] = st.one_of(
    SCALARS,
    SCALARS,
    st.recursive(
        SCALARS,
        lambda inner: st.one_of(
            st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)
        ),
        max_leaves=8,
    ),
    st.integers(1, 120).map(lambda depth: functools.reduce(lambda v, _: [v], range(depth), 1)),
    # One in a few hundred cases has the whole size, which takes a second to write and to read.
    st.integers(1, 20)
    .map(lambda n: 50_000 if n == 13 else n * 40)
    .flatmap(
        lambda n: st.sampled_from(
            [[0] * n, ["x" * 1000] * (n // 25), dict.fromkeys(map(str, range(n // 2)), 1)]
        )
    ),
)


# ── bytes ────────────────────────────────────────────────────────────────────────────────────────

PIECES = [
    *(b"\0", b"\xff", b"\xef\xbb\xbf", b"\t", b"\r\n", b"---\n", b"...\n", b"{", b"[", b"}", b"]"),
    *(
        b": ",
        b"- ",
        b"? ",
        b"&a ",
        b"*a",
        b"<<: *a\n",
        b"!!binary ",
        b"!!python/none ",
        b"!x ",
        b'"',
    ),
    *(b"'", b"|\n", b">\n", b"#", b"%YAML 1.1\n", b"yes", b"0o17", b"017", b"12:30", b"2024-01-01"),
    *(b".nan", b".inf", b"1e400", b"9" * 5000, b"[" * 3000, b"{a: " * 300, b"\xc3", b"\x1b[0m"),
    *(b"base: smoke.yaml\n", b"base: .\n", b"a: &a [*a]\n", b"\xf0\x9f\x98\x80", b"x" * 70_000),
    b"x: &x0 [1,1,1,1,1,1,1,1,1]\n"
    + b"".join(
        b"x%d: &x%d [%s]\n" % (n, n, b",".join([b"*x%d" % (n - 1)] * 9)) for n in range(1, 10)
    ),
]


@st.composite
def mutated(draw: st.DrawFn, contents: list[bytes]) -> bytes:
    """Bytes of a file with some changes."""
    data = bytearray(draw(st.sampled_from(contents)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        piece = draw(st.one_of(st.sampled_from(PIECES), st.binary(max_size=6)))
        match draw(st.integers(0, 4)):
            case 0:
                data[at:at] = piece
            case 1:
                data[at : at + len(piece)] = piece
            case 2:
                del data[at : at + draw(st.integers(1, 200))]
            case 3:
                data[at:at] = data[max(0, at - draw(st.integers(1, 400))) : at]
            case _:
                end = data.find(b"\n", at)
                data[at : end if end > 0 else len(data)] = piece
    return bytes(data)


TOKENS = st.lists(
    st.sampled_from([piece.decode("latin-1") for piece in PIECES if len(piece) < 30])
    | st.sampled_from(["name", "corpora", "pretrain", "\n", "\n  ", ",", " ", "sft", "a"]),
    max_size=25,
).map(lambda tokens: "".join(tokens).encode("latin-1"))
