"""A data card of the cleaned corpus: Croissant JSON-LD.

The format is Croissant 1.0 with its vocabulary for responsible AI:
https://docs.mlcommons.org/croissant/docs/croissant-spec.html
"""

import json
import time
from collections import Counter
from typing import Any

from tasks.report.cards.facts import DataSet, Facts
from tasks.report.language import Writer
from tasks.report.trace.numbers import Known, computed, known, place_in

CONTEXT: dict[str, Any] = {
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataBiases": "cr:dataBiases",
    "dataCollection": "cr:dataCollection",
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "personalSensitiveInformation": "cr:personalSensitiveInformation",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
"""The context that the specification gives, but for the language."""

FIELDS = {"id": "sc:Text", "source": "sc:Text", "text": "sc:Text"}
"""Fields of a cleaned document, and their types."""


def data_card(facts: Facts, say: Writer) -> str:
    """Write the card of the corpus that a model was pretrained on, as JSON."""
    assert facts.cleaned is not None
    cleaned = facts.cleaned
    manifest = cleaned.manifest
    corpora = {d.name: d for d in facts.data if d.kind == "corpora"}
    entries = [
        {**entry, "place": place}
        for place, entry in enumerate(manifest.get("files", []))
        if entry["path"].endswith(".jsonl") and entry["path"].partition("/")[0] in corpora
    ]
    kept = known(cleaned, "documents after cleaning", "counts", "documents_kept")
    size = known(cleaned, "bytes after cleaning", "counts", "bytes_kept")
    description = say(
        "card.corpus",
        documents=say.known("{:,}".format, kept, "not_known"),
        bytes=say.known("{:,}".format, size, "not_known"),
        sources=_sources(facts, corpora, say),
    )
    if facts.is_sample:
        description += " " + say("card.sample")
    content = {
        "@context": {"@language": say.language, **CONTEXT},
        "@type": "sc:Dataset",
        "conformsTo": [
            "http://mlcommons.org/croissant/1.0",
            "http://mlcommons.org/croissant/RAI/1.0",
        ],
        "name": f"steel-corpus-{cleaned.key}",
        "description": description,
        "version": f"1.0.0+{cleaned.key}",
        "datePublished": time.strftime("%Y-%m-%d", time.gmtime(manifest["finished"])),
        "inLanguage": facts.languages,
        "license": sorted({d.licence for d in corpora.values()}),
        "isLiveDataset": False,
        "citeAs": say("card.cite", titles="; ".join(d.title for d in corpora.values())),
        "rai:dataCollection": say("card.collection", origins=_origins(corpora)),
        "rai:dataPreprocessingProtocol": _operators(facts, say),
        "rai:personalSensitiveInformation": say("card.personal"),
        "rai:dataBiases": say("card.biases"),
        "distribution": [_file(facts, entry, say) for entry in entries],
        "recordSet": [
            _records(facts, data_set, [e for e in entries if _source(e) == data_set.name], say)
            for data_set in corpora.values()
            if any(_source(entry) == data_set.name for entry in entries)
        ],
    }
    return json.dumps(content, ensure_ascii=False, indent=2) + "\n"


def _source(entry: dict[str, Any]) -> str:
    source: str = entry["path"].partition("/")[0]
    return source


def _sources(facts: Facts, corpora: dict[str, DataSet], say: Writer) -> str:
    """Number of the corpora."""
    parts = [d.documents for d in corpora.values() if d.documents is not None]
    if len(parts) < len(corpora) or not parts:
        return say("not_known")
    return say.known(str, computed("sources of the corpus", "number", *parts))


def _size(facts: Facts, entry: dict[str, Any]) -> Known | None:
    """Bytes of a file, at its place in the manifest."""
    about = f"size of {entry['path']} in bytes"
    return known(facts.cleaned, about, "files", entry["place"], "bytes")


def _file(facts: Facts, entry: dict[str, Any], say: Writer) -> dict[str, Any]:
    """A file with size and checksum; the size has its id in numbers.json."""
    size = f"{entry['bytes']} B"
    say.known(size, _size(facts, entry))
    return {
        "@type": "cr:FileObject",
        "@id": entry["path"],
        "name": entry["path"],
        "contentUrl": entry["path"],
        "contentSize": size,
        "encodingFormat": "application/jsonlines",
        "md5": entry["md5"],
    }


def _records(
    facts: Facts, data_set: DataSet, entries: list[dict[str, Any]], say: Writer
) -> dict[str, Any]:
    """A source's documents; `fields` of the first file stand for those of all, which are alike."""
    files = [size for entry in entries if (size := _size(facts, entry)) is not None]
    number = computed(f"{data_set.name}, files", "number", *files)
    description = say(
        "card.records",
        title=data_set.title,
        documents=say.known("{:,}".format, data_set.documents, "not_known"),
        tokens=say.known("{:,}".format, data_set.tokens, "not_measured"),
        licence=data_set.licence,
        files=say.known(str, number),
    )
    return {
        "@type": "cr:RecordSet",
        "@id": data_set.name,
        "name": data_set.name,
        "description": description,
        "key": {"@id": f"{data_set.name}/id"},
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"{data_set.name}/{name}",
                "name": name,
                "description": say(f"card.field_{name}"),
                "dataType": kind,
                "source": {"fileObject": {"@id": entries[0]["path"]}, "extract": {"column": name}},
            }
            for name, kind in FIELDS.items()
        ],
    }


def _origins(corpora: dict[str, DataSet]) -> str:
    return "; ".join(
        f"{d.title}: {d.repository or d.origin}{f' at {d.revision}' if d.revision else ''}"
        for d in corpora.values()
    )


def _operators(facts: Facts, say: Writer) -> list[str]:
    """Steps of the preparation: reading, every cleaning operator, duplicates, questions."""
    assert facts.cleaned is not None
    steps = []
    if facts.normalized is not None:
        read = known(facts.normalized, "documents read", "counts", "documents")
        bad = known(facts.normalized, "records not read", "counts", "quarantined")
        steps.append(
            say(
                "card.read",
                n=say.known("{:,}".format, read, "not_known"),
                bad=say.known("{:,}".format, bad, "not_known"),
            )
        )
    path = facts.cleaned.folder / "ledger.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.is_file() else []
    dropped: Counter[str] = Counter()
    changed: Counter[str] = Counter()
    for row in rows:
        dropped[row["operator"]] += row["documents_dropped"]
        changed[row["operator"]] += row["documents_changed"]

    def number(name: str, counts: Counter[str], field: str) -> str:
        how = f"sum of {field} of {name}, over all recipes"
        place = place_in(facts.cleaned, "ledger.json", how=how)
        return say.number(f"{counts[name]:,}", f"{name}, {field}", counts[name], place)

    steps += [
        say(
            "card.step",
            name=name,
            dropped=number(name, dropped, "documents_dropped"),
            changed=number(name, changed, "documents_changed"),
        )
        for name in dropped
    ]
    return steps
