"""An SFT mixture drawn from encoded sets: rows by number, and a table of what became of them.

    set ──language, style──▶ wanted ──contaminated?──▶ ──first answer within max_length──▶ usable
        ──fraction, limit, pools (mixing.py)──▶ drawn ──▶ mixture.jsonl: {set, row, language, style}

A mixture is drawn from what can be trained on, so that its ratios hold for what is trained on. Row
`n` of a set is line `n` of its rows.jsonl, and sample `n` of its ids.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from common.files import complete_file, json_line
from corpus.bad_rows import OnBadRow, refuse_bad_rows
from corpus.chats.contamination import MATCHES_FILE
from corpus.chats.encoded_sets import QUARANTINE_FILE, ReadSet, lines_of
from corpus.chats.mixing import MixtureRow, draw_mixture
from corpus.chats.reading import BAD_ROW_REMEDY
from corpus.chats.recipes import Mixture, MixtureSet
from model.train.finetune.encoded import EncodedSet, Ints
from model.train.finetune.encoding import ANSWER_TOO_LONG, NO_ROOM


class _Choice:
    """Rows of one set that a mixture may take, and why it may not take the others."""

    def __init__(
        self, read: ReadSet, share: MixtureSet, *, max_length: int, drop_contaminated: bool
    ) -> None:
        one = read.encoded
        notes = one.notes
        wanted = _named(one.languages, notes["language"], {str(share.language)} - {"any"})
        wanted &= _named(one.styles, notes["style"], {*share.styles})
        self.other = int(np.count_nonzero(~wanted))
        contaminated = wanted & (notes["contaminated"] != 0)
        self.wanted = wanted.copy()
        self.contaminated = int(np.count_nonzero(contaminated))
        self.left_out: dict[str, int] = {}
        usable = wanted & ~contaminated if drop_contaminated else wanted
        for number, reason in enumerate(one.reasons[1:], start=1):
            self._leave_out(reason, usable & (notes["left_out"] == number))
        usable &= notes["left_out"] == 0
        long = usable & (one.columns["ids"].lengths > max_length)
        no_room = long & (notes["first_begin"] >= max_length)
        too_long = long & ~no_room & (notes["first_end"] > max_length)
        self._leave_out(NO_ROOM, no_room)
        self._leave_out(ANSWER_TOO_LONG, too_long)
        self.rows: Ints = np.flatnonzero(usable & ~no_room & ~too_long)
        letters = np.array([name[:1] for name in one.languages] or ["e"])
        self.letters = "".join(letters[notes["language"][self.rows]].tolist())
        self.cut = long[self.rows]

    def _leave_out(self, reason: str, rows: npt.NDArray[np.bool_]) -> None:
        if number := int(np.count_nonzero(rows)):
            self.left_out[reason] = self.left_out.get(reason, 0) + number


def build_mixture(
    mixture: Mixture,
    sets: Mapping[str, ReadSet],
    output: Path,
    *,
    seed: int,
    max_length: int,
    drop_contaminated: bool = True,
    on_bad_row: OnBadRow = "skip",
) -> list[MixtureRow]:
    """Draw a mixture; returns a line of its table for each set.

    Writes `output`, and beside it contamination.jsonl (benchmark questions in what was wanted;
    `drawn`: in the mixture, too) and quarantine/<set>.jsonl (rows that cannot be used).

    Args:
        sets: each set of the mixture, encoded.
        output: JSON lines {set, row, language, style} in the order of the sets.
        seed: of the draws.
        max_length: tokens of a conversation that are trained on, at most.
        drop_contaminated: leave out conversations with a benchmark question.
        on_bad_row: fail: refuse sets with malformed rows.

    Raises DataError for malformed rows where they are refused.
    """
    shares = {name: share for name, share in mixture.sets.items() if share.fraction > 0}
    for name in shares if on_bad_row == "fail" else ():
        _refuse(sets[name])
    choices = {
        name: _Choice(sets[name], share, max_length=max_length, drop_contaminated=drop_contaminated)
        for name, share in shares.items()
    }
    drawn = draw_mixture(mixture, {name: c.letters for name, c in choices.items()}, seed)
    with complete_file(output) as file:
        for name, places in drawn.items():
            file.writelines(map(json_line, _lines(name, sets[name].encoded, choices[name], places)))
    with complete_file(output.with_name(MATCHES_FILE)) as file:
        for name, choice in choices.items():
            taken = {int(choice.rows[place]) for place in drawn[name]}
            for row, match in lines_of(sets[name].folder / MATCHES_FILE, choice.wanted):
                file.write(json_line({**match, "drawn": row in taken}))
    for name in shares:
        aside = sets[name].folder / QUARANTINE_FILE
        if aside.stat().st_size:
            copy = output.parent / "quarantine" / f"{name}.jsonl"
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(aside, copy)
    return [_table_row(sets[name], choice, drawn[name]) for name, choice in choices.items()]


def _named(names: Any, numbers: npt.NDArray[np.uint8], wanted: set[str]) -> npt.NDArray[np.bool_]:
    """True for each number whose name is wanted; for all if none is named."""
    if not wanted:
        return np.ones(len(numbers), np.bool_)
    return np.isin(numbers, [n for n, name in enumerate(names) if name in wanted])


def _lines(name: str, one: EncodedSet, choice: _Choice, places: Any) -> Any:
    for place in places:
        row = int(choice.rows[place])
        note = one.notes[row]
        yield {
            "set": name,
            "row": row,
            "language": one.languages[note["language"]],
            "style": one.styles[note["style"]],
        }


def _refuse(read: ReadSet) -> None:
    named = list(read.malformed)
    # Their number is that of all, though only the first ones are kept.
    refuse_bad_rows(read.name, named + [""] * (read.num_malformed - len(named)), BAD_ROW_REMEDY)


def _table_row(read: ReadSet, choice: _Choice, places: Any) -> MixtureRow:
    taken = [choice.letters[place] for place in places]
    return MixtureRow(
        set=read.name,
        usable=len(choice.rows),
        taken=len(taken),
        chinese=taken.count("z"),
        neither=taken.count("o"),
        other=choice.other,
        left_out=choice.left_out,
        cut=int(sum(choice.cut[place] for place in places)),
        skipped=read.skipped,
        malformed=read.num_malformed,
        contaminated=choice.contaminated,
    )
