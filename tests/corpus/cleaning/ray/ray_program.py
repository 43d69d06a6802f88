"""Programs for test_ray.py, each in a process of its own, since Data-Juicer stays in Ray mode.

python ray_program.py models|ray|reference job.json
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from corpus.cleaning import recipe as recipes

PROXY_TOKENIZER = "EleutherAI/pythia-6.9b-deduped"


def main(argv: Sequence[str]) -> None:
    job = json.loads(Path(argv[1]).read_text("utf-8"))
    result = {"models": models, "ray": on_ray, "reference": reference}[argv[0]](job)
    Path(job["result"]).write_text(json.dumps(result), encoding="utf-8")


def models(job: dict[str, Any]) -> dict[str, Any]:
    """Train a small language model and place a tokenizer, as the stage does."""
    from corpus.cleaning.language_model import build as language_model
    from corpus.cleaning.language_model.config import LanguageModelConfig
    from corpus.tokenizer import configured_tokenizer

    folder = Path(job["models"])
    texts = [d["text"] for path in job["inputs"].values() for d in _documents(Path(path))]
    language_model.train(texts, folder, "zh", LanguageModelConfig(vocabulary=600))
    configured_tokenizer("auto").save_pretrained(folder / PROXY_TOKENIZER)
    return {}


def on_ray(job: dict[str, Any]) -> dict[str, Any]:
    """Clean on Ray. Notes the addresses that our processes listen on."""
    from corpus.cleaning.ray.run import RayConfig, run

    listening: set[str] = set()
    said: list[str] = []

    def say(done: int, total: int, what: str) -> None:
        assert 0 <= done <= total
        said.append(what)
        if done == total:
            mine = psutil.Process()
            for process in (mine, *mine.children(recursive=True)):
                for connection in process.net_connections("inet"):
                    if connection.status == psutil.CONN_LISTEN:
                        listening.add(connection.laddr.ip)

    outcome = run(
        recipes.load_file(Path(job["recipe"])),
        {source: Path(path) for source, path in job["inputs"].items()},
        Path(job["models"]),
        Path(job["output"]),
        Path(job["scratch"]),
        RayConfig(**job["ray"]),
        say,
        "all",
    )
    return {
        "cleaned": [str(p) for p in outcome.cleaned],
        "document_traces": [str(p) for p in outcome.document_traces],
        "recipe": str(outcome.recipe),
        "notes": outcome.notes,
        "listening": sorted(listening),
        "said": said,
    }


def reference(job: dict[str, Any]) -> dict[str, Any]:
    """The library's own operator objects, called directly, document by document.

    Near-duplicates: the library's document_minhash_deduplicator, which holds all documents in one
    process, and the recipe's own SimHash for comparison.
    """
    import datasets
    from data_juicer.ops import load_ops

    recipe = recipes.load_file(Path(job["recipe"]))
    recipe.import_custom_operators()
    rows = [d for path in job["inputs"].values() for d in _documents(Path(path))]
    plain = [op for op in recipe.operators if op.kind != "deduplicator"]
    operators = load_ops([{op.name: dict(op.arguments)} for op in plain])
    traces = [_take(operators, document["text"]) for document in rows]
    kept = [i for i, trace in enumerate(traces) if not trace["dropped_by"]]
    left = {}
    for name, (operator, arguments) in job["deduplicators"].items():
        (deduplicator,) = load_ops([{operator: arguments}])
        hashed = [deduplicator.compute_hash({"text": traces[i]["text"]}) for i in kept]
        table = datasets.Dataset.from_list(
            [h | {"at": i} for i, h in zip(kept, hashed, strict=True)]
        )
        left[name] = sorted(deduplicator.process(table)[0]["at"])
    ids = [document["id"] for document in rows]
    return {
        "traces": dict(zip(ids, traces, strict=True)),
        "left": {name: [ids[i] for i in at] for name, at in left.items()},
    }


def _take(operators: Sequence[Any], text: str) -> dict[str, Any]:
    stats: dict[str, Any] = {}
    edits: list[dict[str, int]] = []
    trace = {"dropped_by": 0, "failed": False}
    for position, operator in enumerate(operators, start=1):
        try:
            if not hasattr(operator, "compute_stats"):
                changed = operator.process({"text": [text]})["text"][0]
                if changed != text:
                    edits.append({"operator": position, "bytes": len(changed.encode())})
                text = changed
                continue
            measured = operator.compute_stats({"text": [text], "__dj__stats__": [stats]})
        except ValueError:
            trace = {"dropped_by": position, "failed": True}
            break
        stats = dict(measured["__dj__stats__"][0])
        if not next(iter(operator.process(measured))):
            trace = {"dropped_by": position, "failed": False}
            break
    return trace | {"text": text, "edits": edits, "stats": {k: float(v) for k, v in stats.items()}}


def _documents(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


if __name__ == "__main__":
    main(sys.argv[1:])
