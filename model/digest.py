"""Digest of a model's files: the name of what it computes."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from common.files import hash_of, hashing_threads, md5_of_file

MODEL_FILES = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken")
"""Files that decide about a model's answers: weights, configs, tokenizer."""
NETWORK_FILES = ("*.safetensors", "config.json")
"""Files that decide about the probabilities of token ids."""


def model_digest(folder: Path, patterns: Sequence[str] = MODEL_FILES) -> str:
    """32 hexadecimal digits of the names and contents of a model's files."""
    files = sorted({path for pattern in patterns for path in folder.glob(pattern)})
    with ThreadPoolExecutor(hashing_threads()) as pool:
        sums = list(pool.map(md5_of_file, files))
    listed = [[path.name, md5] for path, md5 in zip(files, sums, strict=True)]
    return hash_of(listed)
