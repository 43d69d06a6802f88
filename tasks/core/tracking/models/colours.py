"""A colour and a place on the axis for each model, the same in every chart and for good.

The first models of an experiment have colours that differ for colour-blind eyes, too; those after
them have hues as far from each other as a number of them allows. What a model has is in the tag
`steel.place` of its runs: a model that is trained again keeps it, another one never gets it.
"""

import colorsys
import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tasks.core.theme import LIGHT

PLACE = "steel.place"
"""Tag of a model's place: a whole number, counted from 0."""
GOLDEN_ANGLE = 0.381966
"""Turn of the colour wheel from one hue to the next."""


def colour(place: int) -> str:
    """Colour of a place, as #rrggbb."""
    if place < len(LIGHT.series):
        return LIGHT.series[place]
    number = place - len(LIGHT.series)
    lightness = (0.36, 0.52, 0.66)[number % 3]
    rgb = colorsys.hls_to_rgb((0.03 + number * GOLDEN_ANGLE) % 1.0, lightness, 0.6)
    return "#" + "".join(f"{round(255 * part):02x}" for part in rgb)


def place_of(client: Any, experiment: str, key: str) -> int:
    """The place of the model with this key: the one it has, or else the first that is free."""
    taken: set[int] = set()
    for run in every_run(client, experiment):
        tags = run.data.tags
        number = tags.get(PLACE, "")
        if number.isdigit():
            if tags.get("steel.key") == key:
                return int(number)
            taken.add(int(number))
    return next(number for number in range(len(taken) + 1) if number not in taken)


def every_run(client: Any, experiment: str, filter_string: str = "") -> Iterator[Any]:
    """Runs of an experiment, newest first, page by page."""
    token = None
    while True:
        page = client.search_runs([experiment], filter_string, max_results=1000, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Let one process of a store choose a place after another."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "places.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
