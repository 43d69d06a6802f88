"""Compressed streams, read in pieces."""

import io

from hypothesis import given
from hypothesis import strategies as st

from corpus.sources.compression import DecompressingReader
from tests.corpus.sources.archive_files import COMPRESS


@given(
    st.lists(st.binary(max_size=3000), max_size=4),
    st.sampled_from(["gz", "zst", "bz2", "xz"]),
    st.integers(1, 5000),
)
def test_streams_of_several_members_in_pieces_of_any_size(
    parts: list[bytes], codec: str, piece: int
) -> None:
    packed = b"".join(COMPRESS[codec](part) for part in parts)
    stream = DecompressingReader(io.BytesIO(packed), codec, track_position=True)
    got = b""
    last = -1.0
    while data := stream.read(piece):
        got += data
        position = stream.compressed_position(len(got))
        assert last <= position <= len(packed)
        last = position
    assert got == b"".join(parts)
