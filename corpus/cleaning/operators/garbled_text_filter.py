"""`garbled_text_filter`: drop texts that were decoded with the wrong encoding.

    浣犲ソ锛屼笘鐣屻€     UTF-8 read as GBK: characters that hardly anybody writes
    ÄãºÃ  ä½\xa0å¥½  ���    GBK and UTF-8 read as Latin-1, bytes that were replaced

Measured: the share of a text that becomes common Chinese when it is written as GBK and read as
UTF-8; Chinese characters that neither simplified nor traditional writing has among its thousands;
signs from runs that no language has. Classics have up to an eighth, garbled pages half. A language
model measures this too, but takes classics, headlines and every other language for garbled.
"""

import re
from collections import Counter
from typing import Any

from data_juicer.ops.base_op import OPERATORS, Filter
from data_juicer.utils.constant import Fields

_HAN = re.compile("[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
# Accented letters and the signs between them, two or more in a row; bytes that could not be
# decoded; characters for private use; half-width katakana.
_ODD_RUN = re.compile("[\x80-\u024f]{2,}|[\ufffd\ue000-\uf8ff\uff66-\uff9f]+")


def _common() -> frozenset[str]:
    """The 6,763 characters of GB 2312 and the 5,401 frequent ones of Big5."""
    frequent = [(range(0xB0, 0xF8), range(0xA1, 0xFF), "gb2312")]
    frequent += [(range(0xA4, 0xC7), range(0x40, 0xFF), "big5")]
    found = {
        bytes([first, second]).decode(encoding, "ignore")
        for firsts, seconds, encoding in frequent
        for first in firsts
        for second in seconds
    }
    return frozenset(character for character in found if _HAN.fullmatch(character))


_COMMON = _common()


def garbled_ratio(text: str) -> float:
    """Share of a text that looks wrongly decoded, 0 to 1; 0 for a text without letters."""
    letters = {c: count for c, count in Counter(text).items() if c.isalpha()}
    num_letters = sum(letters.values())
    rare = [c for c in letters if c not in _COMMON and _HAN.match(c)]
    # Both shares: a page may say one rare word over and over, a dictionary explain many in common
    # ones.
    by_rare = min(
        len(rare) / max(1, len(letters)), sum(letters[c] for c in rare) / max(1, num_letters)
    )
    written = text.encode("gb18030", "ignore")
    read = written.decode("utf-8", "ignore")
    by_reading = sum(3 for character in read if character in _COMMON) / max(1, len(written))
    # A run of one sign is a rule or a blank to fill in.
    odd = sum(len(run) for run in _ODD_RUN.findall(text) if len(set(run)) > 1 or run[0] == "\ufffd")
    return min(1.0, max(by_rare, by_reading) + odd / max(num_letters, odd, 1))


@OPERATORS.register_module("garbled_text_filter")
class GarbledTextFilter(Filter):
    """Keep texts of which at most a share looks wrongly decoded."""

    _batched_op = True

    def __init__(
        self, max_ratio: float = 0.31, min_length: int = 40, *args: Any, **kwargs: Any
    ) -> None:
        """
        Initialization method.

        :param max_ratio: largest share that looks wrongly decoded, 0 to 1.
        :param min_length: texts of fewer characters are kept: a rare name may be all of them.
        :param args: extra args
        :param kwargs: extra args
        """
        super().__init__(*args, **kwargs)
        self.max_ratio = max_ratio
        self.min_length = min_length

    def compute_stats_batched(self, samples: dict[str, Any]) -> dict[str, Any]:
        """Measure every text."""
        for text, stats in zip(samples[self.text_key], samples[Fields.stats], strict=True):
            if "garbled_ratio" not in stats:
                long_enough = len(text) >= self.min_length
                stats["garbled_ratio"] = garbled_ratio(text) if long_enough else 0.0
        return samples

    def process_batched(self, samples: dict[str, Any]) -> list[bool]:
        """True for each text to keep."""
        return [stats["garbled_ratio"] <= self.max_ratio for stats in samples[Fields.stats]]
