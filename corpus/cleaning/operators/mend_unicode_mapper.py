"""Mojibake repaired and characters composed; Chinese punctuation and quotes left as they are.

Data-Juicer's `fix_unicode_mapper` runs ftfy with its defaults, which fold every full-width
character to ASCII (`，！（）` become `,!()`) and straighten quotes. Here only what carries no
meaning is folded: full-width letters and digits.
"""

import re
import unicodedata

import ftfy
from data_juicer.ops.base_op import OPERATORS, Mapper

FULL_WIDTH = {
    first + offset: chr(ord(ascii_first) + offset)
    for first, ascii_first, count in ((0xFF10, "0", 10), (0xFF21, "A", 26), (0xFF41, "a", 26))
    for offset in range(count)
}
"""０-９, Ａ-Ｚ and ａ-ｚ."""

NOTHING = re.compile(
    "[\u2060\ufeff]|(?<![\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff])\u200b"
    "|\u200b(?![\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff])"
)
"""Word joiner, byte order mark, zero-width space: invisible, and between characters of a word they
keep it from being recognised. In Thai, Lao, Tibetan, Burmese and Khmer the space parts words."""

OF_PARTS = "⺟⻄⻅⻆⻉⻋⻓⻔⻘⻙⻚⻛⻜⻝⻢⻣⻤⻥⻦⻨⻩⻬⻮⻰⻳"
CHARACTERS = "母西见角贝车长门青韦页风飞食马骨鬼鱼鸟麦黄齐齿龙龟"
RADICALS = {code: unicodedata.normalize("NFKC", chr(code)) for code in range(0x2F00, 0x2FD6)} | {
    ord(radical): character for radical, character in zip(OF_PARTS, CHARACTERS, strict=True)
}
"""Radicals (⼀, ⽂, ⻓) that programs which read PDF files give for characters (一, 文, 长)."""

WIDE = re.compile("[０-９Ａ-Ｚａ-ｚ．\u2e80-\u2fd5]")

PLAIN = re.compile(r"[\t\n -~\u3000-\u3011\u4e00-\u9fff\uff01-\uff60“”‘’—…·]*")
"""Characters of which no step of ftfy, as it is set here, changes a line: most lines of Chinese."""
LINE = re.compile(r"[^\n]*\n|[^\n]+")
HAN = re.compile(r"[\u3400-\u9fff]")
AS_WRITTEN = re.compile(r"(×(?=[“”‘’])|[“‘][À-ÖØ-öø-ÿ][”’])")
"""Written in Chinese, but bytes of UTF-8 to ftfy, which makes ×ד of `××“` and “Ô of “Ã”."""
DECIMAL_POINT = re.compile(r"(?<=[0-9])．(?=[0-9])")


@OPERATORS.register_module("mend_unicode_mapper")
class MendUnicodeMapper(Mapper):
    """Repairs encoding errors, composes characters, folds full-width letters and digits."""

    _batched_op = True

    def __init__(
        self,
        encoding: bool = True,
        widths: bool = True,
        normalization: str | None = "NFC",
        *args: object,
        **kwargs: object,
    ) -> None:
        """Choose repairs besides control characters, line ends and byte order marks.

        :param encoding: text that was decoded wrongly (mojibake), and Latin ligatures
        :param widths: full-width letters and digits become ASCII, radicals characters, zero-width
            spaces nothing
        :param normalization: a Unicode form that changes no meaning, `NFC` or `NFD`; none: null
        """
        super().__init__(*args, **kwargs)
        if normalization not in (None, "NFC", "NFD"):
            raise ValueError(
                f"normalization {normalization!r} must be NFC, NFD or null: the K forms turn x² "
                "into x2"
            )
        self.widths = widths
        self.config = ftfy.TextFixerConfig(
            unescape_html=False,  # html_to_text_mapper's matter; in code an entity is a literal
            remove_terminal_escapes=True,
            fix_encoding=encoding,
            fix_latin_ligatures=encoding,
            fix_c1_controls=encoding,
            fix_surrogates=True,
            fix_line_breaks=True,
            remove_control_chars=True,
            fix_character_width=False,
            uncurl_quotes=False,
            normalization=normalization,
            explain=False,
        )

    def mend(self, text: str) -> str:
        """One text mended."""
        # A vertical tab is a line break in Word, and no control character to be taken out.
        text = text.replace("\x0b", "\n")
        if not PLAIN.fullmatch(text):
            # Line by line, as ftfy works itself: what it would leave alone is not given to it.
            text = "".join(
                line if PLAIN.fullmatch(line) else self._repaired(line)
                for line in LINE.findall(text)
            )
        if self.widths:
            if WIDE.search(text):  # to translate a text takes ten times as long
                text = DECIMAL_POINT.sub(".", text.translate(FULL_WIDTH | RADICALS))
            text = NOTHING.sub("", text)
        return text

    def _repaired(self, line: str) -> str:
        if not (AS_WRITTEN.search(line) and HAN.search(line)):
            return str(ftfy.fix_text(line, self.config))
        # Every second piece is what stays.
        return "".join(
            piece if number % 2 else ftfy.fix_text(piece, self.config)
            for number, piece in enumerate(AS_WRITTEN.split(line))
        )

    def process_batched(self, samples: dict[str, list[str]]) -> dict[str, list[str]]:
        """Mend every text of a batch."""
        samples[self.text_key] = [self.mend(text) for text in samples[self.text_key]]
        return samples
