"""Numbers of people who do not exist, by the standards that such numbers follow."""

import datetime

from hypothesis import strategies as st


def identity_checksum(digits: str) -> str:
    """Last character of an identity number of 17 digits, by ISO 7064 MOD 11-2, step by step."""
    rest = 0
    for digit in digits:
        rest = (rest + int(digit)) * 2 % 11
    return "0123456789X"[(12 - rest) % 11]


def luhn_checksum(digits: str) -> str:
    """Last digit of a card number."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (2 if place % 2 == 0 else 1)
        total += value - 9 if value > 9 else value
    return str(-total % 10)


def _digits(count: int) -> st.SearchStrategy[str]:
    return st.text(alphabet="0123456789", min_size=count, max_size=count)


MOBILES = st.builds(
    lambda prefix, rest, gap, country: f"{country}{prefix}{gap}{rest[:4]}{gap}{rest[4:]}",
    st.sampled_from(["130", "139", "147", "155", "166", "173", "180", "189", "191", "198"]),
    _digits(8).filter(lambda rest: len(set(rest)) > 2),
    st.sampled_from(["", "", "-", " "]),
    st.sampled_from(["", "", "", "+86", "+86 ", "0086-", "(+86)"]),
)
DATES = st.dates(datetime.date(1930, 1, 1), datetime.date(2015, 12, 31))
IDENTITIES = st.builds(
    lambda region, date, order: (
        (seventeen := f"{region}{date:%Y%m%d}{order}") + identity_checksum(seventeen)
    ),
    st.sampled_from(["110101", "310104", "440305", "510107", "320102", "650102"]),
    DATES,
    _digits(3),
)
CARDS = st.builds(
    lambda prefix, rest, size: (digits := (prefix + rest)[: size - 1]) + luhn_checksum(digits),
    st.sampled_from(["622202", "621700", "622848", "621661", "622588", "955880", "623052"]),
    _digits(13).filter(lambda rest: len(set(rest)) > 3),
    st.sampled_from([16, 19]),
)
HANDLES = st.from_regex(r"[a-z]{3,6}[_-]?[0-9]{3,8}", fullmatch=True)
