"""The perplexity filter's model: pieces by sentencepiece, an n-gram model of our own over them.

    texts of the model's sources, after the recipe's mappers
        ─▶ sentencepiece (unigram) ─▶ <lang>.sp.model
        ─▶ pieces, one document a sentence, as the filter scores them ─▶ <lang>.arpa.bin

Data-Juicer looks for these two names; KenLM reads a text ARPA file under the second. The paper's
bound of 1500 was meant for pieces of a few characters: with single characters as words nearly every
document stays below it, with 16,000 pieces from a small corpus half of the documents lie above.
"""

import io
import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import sentencepiece

from common.errors import DataError
from common.files import complete_file
from common.paths import display
from corpus.cleaning.language_model.config import LanguageModelConfig
from corpus.cleaning.language_model.ngram import NgramModel
from corpus.formats.records import EMPTY_LINE, Damaged, read_records
from corpus.formats.text_files import read_lines
from corpus.text_fields import BadField, kind_of, text_in

log = logging.getLogger(__name__)

RESERVED = frozenset(("<unk>", "<s>", "</s>"))
MIN_CHARACTERS = 2000
"""Fewest characters that a model is trained on."""


def training_texts(
    inputs: Mapping[str, str], config: LanguageModelConfig
) -> Iterator[tuple[str, str]]:
    """Yield (source, text) to train on, up to `max_characters`: its own texts, whose source is "",
    or its sources in turn.

    Args:
        inputs: source -> its normalised file.
    """
    if config.texts is not None:
        files = [("", file) for file in config.text_files()]
    else:
        files = [(s, Path(inputs[s])) for s in config.sources if s in inputs]
        files = files or [(source, Path(path)) for source, path in inputs.items()]
    left = config.max_characters
    for position, (source, file) in enumerate(files):
        # An equal share for each; what one does not use goes to those after it.
        share = left // (len(files) - position)
        for text in _texts(file):
            if len(text) > share:
                break
            share, left = share - len(text), left - len(text)
            yield source, text


def _texts(path: Path) -> Iterator[str]:
    """The `text` of every line of a .jsonl, the lines of any other file; both also as .gz.

    Raises DataError that names the line of a row without a text.
    """
    structured = path.name.removesuffix(".gz").endswith(".jsonl")
    for record in read_records(path) if structured else read_lines(path):
        where = f"{display(path)}, line {record.line}"
        if isinstance(record.value, Damaged):
            if record.value.reason == EMPTY_LINE:
                continue
            raise DataError(f"{where}: {record.value.reason}")
        if not isinstance(record.value, dict):
            raise DataError(f"{where}: {kind_of(record.value)}, not an object with `text`")
        try:
            yield text_in(record.value, "text").rstrip("" if structured else "\r\n")
        except BadField as bad:
            raise DataError(f"{where}: {bad}") from None


def train(
    texts: Iterable[str], folder: Path, language: str, config: LanguageModelConfig
) -> dict[str, int]:
    """Train on texts and write both files. Returns counts. Raises DataError for too little text."""
    corpus = [text for text in texts if text.strip()]
    characters = sum(map(len, corpus))
    if characters < MIN_CHARACTERS:
        raise DataError(
            f"The language model has only {characters} characters to learn from "
            f"({', '.join(config.sources)}); it needs {MIN_CHARACTERS}. Name more sources under "
            "clean.language_model.sources, or give a trained one as clean.language_model.folder."
        )
    log.info("training a language model on %d characters", characters)
    pieces = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(line for text in corpus for line in text.split("\n") if line.strip()),
        model_writer=pieces,
        model_type="unigram",
        vocab_size=config.vocabulary,
        hard_vocab_limit=False,  # a small corpus has fewer pieces to give
        character_coverage=0.9995,
        max_sentence_length=1 << 16,
        num_threads=1,  # the same pieces on every machine
        minloglevel=2,
    )
    processor = sentencepiece.SentencePieceProcessor(model_proto=pieces.getvalue())
    ngrams = NgramModel(config.order)
    for text in corpus:
        # Cut as the filter cuts: white space inside pieces separates words and lines there.
        for line in " ".join(processor.encode_as_pieces(text)).splitlines():
            ngrams.add([w for w in line.split() if w not in RESERVED and "\0" not in w])
    with complete_file(folder / f"{language}.sp.model") as file:
        file.write(pieces.getvalue())
    tables = ngrams.estimate()
    with complete_file(folder / f"{language}.arpa.bin") as file:
        ngrams.write_arpa(file, tables)
    counts = {f"ngrams_{n}": len(table.keys) for n, table in enumerate(tables, start=1)}
    return {"documents": len(corpus), "characters": characters, "words": ngrams.num_words} | counts
