"""An index that is made once for the same questions: kept in a folder under a hash of its content.

The hash covers the benchmarks' files, what counts as contained, the code that makes an index and
the versions of Unicode and OpenCC; so an index is found again, or is another one, and never stale.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from common.errors import DataError
from common.files import json_line
from common.paths import RECIPES
from corpus.decontaminate.build import build_index
from corpus.decontaminate.index import Index
from corpus.decontaminate.questions import ContaminationConfig, find_benchmarks
from corpus.decontaminate.tokens import forms_versions

_CODE = (Path(__file__).parent, Path(__file__).parents[1] / "benchmarks")


def cached_index(
    folder: Path, benchmarks: Sequence[str], config: ContaminationConfig, cache: Path
) -> tuple[Index, Path]:
    """The index of the questions below `folder`, and its file in `cache`.

    Two processes may make it at once: they write the same bytes, each by one rename.

    Args:
        folder: contains a folder for each benchmark.
        benchmarks: which of them; empty takes `config.benchmarks`, or all that are there.
        config: what counts as contained.
        cache: folder of indexes; made when it is not there.

    Raises DataError like `build_index`.
    """
    path = cache / f"questions-{_key(folder, benchmarks, config)}.npz"
    if path.is_file():
        try:
            return Index.load(path), path
        except DataError:
            pass  # damaged, or a process stopped between its two files: made again
    index = build_index(folder, benchmarks, config)
    cache.mkdir(parents=True, exist_ok=True)
    index.save(path)
    return index, path


def _key(folder: Path, benchmarks: Sequence[str], config: ContaminationConfig) -> str:
    digest = hashlib.sha256(repr((config, forms_versions())).encode())
    names = find_benchmarks(folder, benchmarks or config.benchmarks)
    for name in names:
        digest.update((RECIPES / "evals" / f"{name}.yaml").read_bytes())
    files = [(path, path.parent) for code in _CODE for path in sorted(code.glob("*.py"))]
    for name in names:
        files += [(path, folder) for path in sorted((folder / name).rglob("*")) if path.is_file()]
    for path, start in files:
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(json_line([path.relative_to(start).as_posix(), content]))
    return digest.hexdigest()[:32]
