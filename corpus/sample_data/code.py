"""Small C++, Java and Python files about the facts.

Each file is one program (a table of facts, a look-up, a count, a price) of phrases/code.yaml,
filled with other facts, names and numbers, and with its functions in another order.
"""

from random import Random
from string import Template
from typing import Literal

from corpus.sample_data.facts import KINDS, KnowledgeBase
from corpus.sample_data.phrases import phrases

CodeLanguage = Literal["cpp", "java", "python"]

_TEXTS = phrases("code")


def code_file(rng: Random, base: KnowledgeBase, language: CodeLanguage) -> str:
    """One source file of 20 to 60 lines."""
    texts = _TEXTS[language]
    facts = rng.sample(base.facts, rng.randint(5, 10))
    rows = [{"thing": f.thing.en, "of": f.attribute, "value": f.value.en} for f in facts]
    attribute = rng.choice(sorted(KINDS))
    values = [word.en for word in rng.sample(KINDS[attribute].words, 4)]
    noun, verb = rng.choice(_TEXTS["nouns"]), rng.choice(_TEXTS["verbs"])
    fields: dict[str, str | int] = {
        **rows[0],
        "attribute": attribute,
        "ATTRIBUTE": attribute.upper(),
        "word": values[0],
        "words": ", ".join(f'"{value}"' for value in values),
        "noun": noun,
        "Noun": noun.capitalize(),
        "verb": verb,
        "Verb": verb.capitalize(),
        "table": "\n".join(Template(texts["row"]).substitute(row) for row in rows),
    }
    fields |= {name: rng.randint(*limits) for name, limits in texts["numbers"].items()}
    functions = [Template(function).substitute(fields) for function in texts["functions"]]
    rng.shuffle(functions)
    fields["functions"] = texts["between_functions"].join(functions)
    fields |= {name: rng.randint(*limits) for name, limits in texts["last_numbers"].items()}
    return Template(texts["program"]).substitute(fields)


def file_name(rng: Random, language: CodeLanguage, index: int) -> str:
    """A path inside a repository."""
    noun, verb = rng.choice(_TEXTS["nouns"]), rng.choice(_TEXTS["verbs"])
    return f"src/{noun}/{verb}_{index}.{_TEXTS[language]['suffix']}"
