"""Colours and lines of every picture, on a light and on a dark ground."""

import contextlib
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from common.files import complete_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True)
class Theme:
    """Colours of one ground; series differ for colour-blind eyes too."""

    suffix: str
    """Of the file name."""
    ground: str
    """Behind everything."""
    text: str
    """Titles and labels."""
    muted: str
    """Axes, notes."""
    grid: str
    """Lines behind the data."""
    series: tuple[str, ...]
    """Lines and bars, in order."""
    language: Literal["en", "zh"] = "en"
    """Of titles, axes and legends."""


LIGHT = Theme(
    suffix="",
    ground="#ffffff",
    text="#1f2328",
    muted="#59636e",
    grid="#e4e8ec",
    series=("#2f6fb4", "#d1661b", "#2e8b57", "#8a55b5", "#b8860b", "#c2415a", "#4b7f8c"),
)
DARK = Theme(
    suffix="-dark",
    ground="#161b22",
    text="#e6edf3",
    muted="#9aa5b1",
    grid="#2b323b",
    series=("#6cb0f5", "#f59a57", "#63cf92", "#c39af0", "#e3b341", "#f2849a", "#7cc5d6"),
)


def style(theme: Theme) -> dict[str, object]:
    """Matplotlib's settings for one ground."""
    return {
        "figure.facecolor": theme.ground,
        "axes.facecolor": theme.ground,
        "savefig.facecolor": theme.ground,
        "text.color": theme.text,
        "axes.labelcolor": theme.muted,
        "axes.edgecolor": theme.grid,
        "xtick.color": theme.muted,
        "ytick.color": theme.muted,
        "grid.color": theme.grid,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.spines.left": False,
        "axes.axisbelow": True,
        "axes.titlelocation": "left",
        "axes.titlesize": 11,
        "axes.titleweight": "bold",
        "axes.titlepad": 10,
        "axes.labelsize": 9,
        "xtick.labelsize": 9,
        "ytick.labelsize": 9,
        "legend.fontsize": 9,
        "legend.frameon": False,
        # Names of fonts, not of a kind: of a kind Matplotlib takes one font for all characters.
        "font.family": ["DejaVu Sans", *([font] if (font := chinese_font()) else [])],
        "xtick.major.size": 0,
        "ytick.major.size": 0,
        "lines.solid_capstyle": "round",
        "figure.constrained_layout.use": True,
    }


FAMILIES = (
    "Noto Sans CJK SC",
    "Noto Sans CJK",
    "Noto Sans SC",
    "Source Han Sans",
    "WenQuanYi",
    "PingFang",
    "Microsoft YaHei",
    "SimHei",
    "Heiti",
    "Droid Sans Fallback",
)
"""Beginnings of the names of sans-serif fonts with Chinese characters, in order of preference."""


@functools.cache
def chinese_font() -> str | None:
    """Name of a font of this machine with Chinese characters; None where there is none.

    Matplotlib keeps a list of fonts that it made once: files that came later are added to it.
    """
    from matplotlib import font_manager

    manager = font_manager.fontManager
    listed = {entry.fname for entry in manager.ttflist}
    words = [family.replace(" ", "").lower() for family in FAMILIES]
    for path in font_manager.findSystemFonts():
        name = Path(path).stem.replace(" ", "").replace("-", "").lower()
        if path not in listed and any(name.startswith(word) for word in words):
            with contextlib.suppress(OSError, RuntimeError):  # no font file, whatever its name
                manager.addfont(path)
    names = sorted({entry.name for entry in manager.ttflist})
    return next((n for family in FAMILIES for n in names if n.startswith(family)), None)


def latin(text: str) -> str:
    """Replace by `?` the characters that no font of this machine can draw."""
    if text.isascii() or chinese_font() is not None:
        return text
    return text.encode("ascii", "replace").decode()


def save(figure: "Figure", path: Path) -> None:
    """Write a figure as a PNG, whole or not at all."""
    with complete_file(path) as file:
        # No software version and date: the same data give the same bytes.
        figure.savefig(file, dpi=150, format="png", metadata={"Software": None})
