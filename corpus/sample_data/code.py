"""Small C++, Java and Python files about the valley.

Each file is one of a few programs (a table of facts, a look-up, a shop's till, a calendar of fairs)
written out with facts of the world, so that files differ in data, names and order of functions.
"""

from collections.abc import Sequence
from random import Random
from typing import Literal

from corpus.sample_data.world import KINDS, Fact, World

CodeLanguage = Literal["cpp", "java", "python"]

_NOUNS = (
    "visit",
    "basket",
    "bridge",
    "market",
    "garden",
    "letter",
    "parade",
    "harvest",
    "ticket",
    "lantern",
)
_VERBS = (
    "count",
    "find",
    "sort",
    "list",
    "check",
    "print",
    "collect",
    "measure",
    "choose",
    "repeat",
)


def code_file(rng: Random, world: World, language: CodeLanguage) -> str:
    """One source file of 20 to 60 lines."""
    facts = rng.sample(world.facts, rng.randint(5, 10))
    attribute = rng.choice(sorted(KINDS))
    words = [word.en for word in rng.sample(KINDS[attribute].words, 4)]
    noun, verb = rng.choice(_NOUNS), rng.choice(_VERBS)
    writer = {"cpp": _cpp, "java": _java, "python": _python}[language]
    return writer(rng, facts, attribute, words, noun, verb)


def file_name(rng: Random, language: CodeLanguage, index: int) -> str:
    """A path inside a repository."""
    suffix = {"cpp": "cpp", "java": "java", "python": "py"}[language]
    return f"src/{rng.choice(_NOUNS)}/{rng.choice(_VERBS)}_{index}.{suffix}"


def _rows(facts: Sequence[Fact]) -> list[tuple[str, str, str]]:
    return [(fact.thing.en, fact.attribute, fact.value.en) for fact in facts]


def _python(
    rng: Random, facts: Sequence[Fact], attribute: str, words: list[str], noun: str, verb: str
) -> str:
    table = "\n".join(f'    ("{a}", "{b}"): "{c}",' for a, b, c in _rows(facts))
    price, limit = rng.randint(2, 9), rng.randint(3, 8)
    functions = [
        f'''def value_of(name: str, attribute: str) -> str:
    """The value of one attribute of {facts[0].thing.en} or somebody else."""
    return FACTS.get((name, attribute), "unknown")
''',
        f'''def {verb}_{noun}(values: list[str]) -> int:
    """How often the {attribute} {words[0]} occurs."""
    total = 0
    for value in values:
        if value == "{words[0]}":
            total += 1
    return total
''',
        f'''def price_of_{noun}(pieces: int) -> int:
    """Each {noun} costs {price} coins; more than {limit} cost half."""
    if pieces > {limit}:
        return pieces * {price} // 2
    return pieces * {price}
''',
    ]
    rng.shuffle(functions)
    listed = ", ".join(f'"{word}"' for word in words)
    body = "\n\n".join(functions)
    return f'''"""Tools for the {noun} of the valley."""

{attribute.upper()}S = [{listed}]

FACTS = {{
{table}
}}


{body}

if __name__ == "__main__":
    print(value_of("{facts[0].thing.en}", "{facts[0].attribute}"))
    print({verb}_{noun}({attribute.upper()}S), price_of_{noun}({rng.randint(2, 12)}))
'''


def _java(
    rng: Random, facts: Sequence[Fact], attribute: str, words: list[str], noun: str, verb: str
) -> str:
    name = noun.capitalize() + verb.capitalize()
    table = "\n".join(f'        facts.put("{a}/{b}", "{c}");' for a, b, c in _rows(facts))
    price = rng.randint(2, 9)
    methods = [
        """    /** The value of an attribute of somebody in the valley. */
    public String valueOf(String person, String attribute) {
        return facts.getOrDefault(person + "/" + attribute, "unknown");
    }
""",
        f'''    /** How many values are the {attribute} {words[0]}. */
    public int {verb}{noun.capitalize()}(List<String> values) {{
        int total = 0;
        for (String value : values) {{
            if (value.equals("{words[0]}")) {{
                total++;
            }}
        }}
        return total;
    }}
''',
        f"""    /** Every {noun} costs {price} coins. */
    public int price(int pieces) {{
        return pieces * {price};
    }}
""",
    ]
    rng.shuffle(methods)
    body = "\n".join(methods)
    return f"""package valley.{noun};

import java.util.HashMap;
import java.util.List;
import java.util.Map;

/** Tools for the {noun} of the valley. */
public class {name} {{
    private final Map<String, String> facts = new HashMap<>();

    public {name}() {{
{table}
    }}

{body}}}
"""


def _cpp(
    rng: Random, facts: Sequence[Fact], attribute: str, words: list[str], noun: str, verb: str
) -> str:
    table = "\n".join(f'    {{"{a}/{b}", "{c}"}},' for a, b, c in _rows(facts))
    price = rng.randint(2, 9)
    functions = [
        """// The value of an attribute of somebody in the valley.
std::string value_of(const std::string& person, const std::string& attribute) {
  auto found = facts.find(person + "/" + attribute);
  return found == facts.end() ? "unknown" : found->second;
}
""",
        f'''// How many values are the {attribute} {words[0]}.
int {verb}_{noun}(const std::vector<std::string>& values) {{
  int total = 0;
  for (const auto& value : values) {{
    if (value == "{words[0]}") {{
      ++total;
    }}
  }}
  return total;
}}
''',
        f"""// Every {noun} costs {price} coins.
int price(int pieces) {{ return pieces * {price}; }}
""",
    ]
    rng.shuffle(functions)
    listed = ", ".join(f'"{word}"' for word in words)
    body = "\n".join(functions)
    return f'''#include <iostream>
#include <map>
#include <string>
#include <vector>

const std::map<std::string, std::string> facts = {{
{table}
}};

{body}
int main() {{
  std::vector<std::string> values = {{{listed}}};
  std::cout << {verb}_{noun}(values) << " " << price({rng.randint(2, 12)}) << std::endl;
  std::cout << value_of("{facts[0].thing.en}", "{facts[0].attribute}") << std::endl;
  return 0;
}}
'''
