"""A flow that a schedule can start: it does nothing, in no time."""

from prefect import flow


@flow(name="steel")
def tiny(word: str = "steel") -> str:
    """Say a word."""
    return word
