"""A recipe's plan on Ray: groups of operators, and MinHash in the place of SimHash.

    mapper, filter, …, deduplicator, mapper, …  ─▶  operators │ MinHash │ operators │ …

A deduplicator must see all documents at once, so a recipe is cut before and after it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from common.config import Config
from common.errors import ConfigError
from common.paths import display
from common.ranges import Ge, Limit, PositiveInt
from corpus.cleaning.recipe import MINHASH, REPEATED_LINES, Operator, Recipe

MINHASH_NAME = "ray_bts_minhash_deduplicator"
MINHASH_ARGUMENTS = {
    "tokenization": "character",
    "window_size": 5,
    "num_permutations": 256,
    "jaccard_threshold": 0.7,
}
"""Arguments of the MinHash that replaces SimHash, besides the recipe's own `lowercase` and
`ignore_pattern`."""


@dataclass(frozen=True, kw_only=True)
class RayConfig(Config):
    """The Ray cluster, and the amount of work given to it at once."""

    address: str = "local"
    """"local": on this machine, for this run only. "auto": the cluster that was started here or
    that RAY_ADDRESS names. "<host>:<port>": the head node of a cluster."""
    num_cpus: Annotated[int, Ge(0), Limit(10**6)] = 0
    """Cores that "local" takes; 0: all."""
    partition_bytes: PositiveInt = 64 << 20
    """Bytes of normalised text per output file, which one worker holds in memory; 1 or more. The
    stage puts `clean.partition_bytes` here, so that both executors write the same files."""
    round_bytes: PositiveInt = 64 << 30
    """Bytes that go through the operators before the next lot: what an interruption can cost."""

    def check(self) -> Iterator[ConfigError]:
        host, _, port = self.address.rpartition(":")
        if self.address not in ("local", "auto") and not (host and port.isdecimal()):
            yield ConfigError(
                f"address = {self.address!r}; it must be local, auto or <host>:<port>"
            )
        if "://" in self.address:
            yield ConfigError(
                f"address = {self.address!r}: Data-Juicer's executor is not driven through a Ray "
                "client. Run this on a node of the cluster, with address auto or <host>:<port>"
            )


@dataclass(frozen=True, kw_only=True)
class OperatorGroup:
    """Operators that run together: mappers and filters, or one deduplicator."""

    operators: tuple[Operator, ...]
    """Operators of the group, in order."""
    positions: tuple[int, ...]
    """Their places in the recipe, from 1."""

    @property
    def deduplicates(self) -> bool:
        """True for a deduplicator, which must see all documents at once."""
        return self.operators[0].kind == "deduplicator"


def operator_groups(recipe: Recipe) -> list[OperatorGroup]:
    """Cut a recipe before and after its deduplicators, each replaced by one that Ray can run.

    Raises ConfigError for a deduplicator that has no counterpart.
    """
    groups: list[OperatorGroup] = []
    for position, operator in enumerate(operators_on_ray(recipe), start=1):
        group = OperatorGroup(operators=(operator,), positions=(position,))
        if groups and not (groups[-1].deduplicates or group.deduplicates):
            before = groups.pop()
            group = OperatorGroup(
                operators=before.operators + group.operators,
                positions=before.positions + group.positions,
            )
        groups.append(group)
    return groups


def replacements(recipe: Recipe) -> list[dict[str, Any]]:
    """The operators that Ray replaces by another or leaves out, with the parameters of both."""
    return [
        {
            "position": position,
            "operator": old.name,
            "arguments": old.arguments,
            "replaced_by": "" if new is None else new.name,
            "with": {} if new is None else new.arguments,
        }
        for position, old in enumerate(recipe.operators, start=1)
        if (new := _on_ray(old, recipe)) is None or new.name != old.name
    ]


def operators_on_ray(recipe: Recipe) -> list[Operator]:
    """The recipe's operators, with deduplicators replaced by ones that Ray can run."""
    found = [_on_ray(operator, recipe) for operator in recipe.operators]
    return [operator for operator in found if operator is not None]


def _on_ray(operator: Operator, recipe: Recipe) -> Operator | None:
    """The operator that runs in one's place; None: none."""
    if operator.kind != "deduplicator" or operator.name == MINHASH_NAME:
        return operator
    if operator.name == REPEATED_LINES:
        return None  # It counts the lines of all documents in one process; it is the last operator.
    if operator.name == MINHASH:
        return Operator(name=MINHASH_NAME, arguments=operator.arguments)
    if "simhash" not in operator.name and "minhash" not in operator.name:
        raise ConfigError(
            f"{display(recipe.path)}: {operator.name} runs on one machine only. On Ray use "
            f"{MINHASH_NAME}, or a SimHash or MinHash deduplicator, which is replaced by it"
        )
    kept = {k: v for k, v in operator.arguments.items() if k in ("lowercase", "ignore_pattern")}
    return Operator(name=MINHASH_NAME, arguments=MINHASH_ARGUMENTS | kept)
