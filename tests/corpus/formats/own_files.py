"""Word, EPUB and other files that tests write."""

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path

from corpus.formats.normalization import NormalizedCorpus, RawCorpus, normalize_corpus
from corpus.recipes import CorpusRecipe

CONTAINER = """<?xml version="1.0"?>
<container version="1.0" xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>
<rootfile full-path="OEBPS/content.opf" media-type="application/oebps-package+xml"/>
</rootfiles></container>"""

PAGE = """<?xml version="1.0" encoding="utf-8"?>
<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.1//EN" "http://www.w3.org/TR/xhtml11/DTD/xhtml11.dtd">
<html xmlns="http://www.w3.org/1999/xhtml"><head><title>x</title></head><body>{}</body></html>"""


def epub(pages: Sequence[str], title: str = "书名") -> bytes:
    """An EPUB file with these pages, whole ones or the content of their bodies."""
    ids = [f"p{number}" for number in range(len(pages))]
    items = "".join(
        f'<item id="{i}" href="{i}%20.xhtml" media-type="application/xhtml+xml"/>'
        for i in reversed(ids)
    )
    spine = "".join(f'<itemref idref="{i}"/>' for i in ids)
    package = (
        '<package xmlns="http://www.idpf.org/2007/opf" xmlns:dc="http://purl.org/dc/elements/1.1/">'
        f"<metadata><dc:title>{title}</dc:title></metadata><manifest>{items}</manifest>"
        f"<spine>{spine}</spine></package>"
    )
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mimetype", "application/epub+zip")
        archive.writestr("META-INF/container.xml", CONTAINER)
        archive.writestr("OEBPS/content.opf", package)
        for name, page in zip(ids, pages, strict=True):
            whole = page if "<html" in page else PAGE.format(page)
            archive.writestr(f"OEBPS/{name} .xhtml", whole)
    return out.getvalue()


def recipe(**fields: object) -> CorpusRecipe:
    """A recipe of a corpus `x` in the format `plain`."""
    given = {"reading": "files", "format": "plain", **fields}
    return CorpusRecipe(
        name="x",
        title="x",
        family="book",
        language="zh",
        licence="x",
        paper_size="x",
        **given,  # type: ignore[arg-type]
    )


def normalized(
    folder: Path, files: dict[str, bytes], **fields: object
) -> tuple[NormalizedCorpus, dict[str, str], Path]:
    """Files through normalisation as one corpus: (result, id -> text, quarantine)."""
    import json

    for name, data in files.items():
        path = folder / "raw" / "x" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (folder / "raw" / "x").mkdir(parents=True, exist_ok=True)
    kept, aside = folder / "kept.jsonl", folder / "aside.jsonl"
    result = normalize_corpus(RawCorpus(recipe(**fields), folder / "raw"), kept, aside)
    documents = [json.loads(line) for line in kept.read_text("utf-8").splitlines()]
    return result, {d["id"].removeprefix("x/"): d["text"] for d in documents}, aside
