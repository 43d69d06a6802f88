"""Names that others chose: they never lead out of a folder."""

import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from common.names import UnsafeName, safe_parts


@given(st.text(min_size=1, max_size=40))
def test_safe_names_stay_inside(name: str) -> None:
    try:
        parts = safe_parts(name)
    except UnsafeName:
        return
    top = Path("/top/folder")
    assert top in Path(json.loads(json.dumps(str(top.joinpath(*parts))))).parents
    assert not {"", ".", ".."} & set(parts)
    assert not any("/" in part or "\\" in part for part in parts)
