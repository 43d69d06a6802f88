"""The findings of a verification in sentences for a terminal."""

from collections.abc import Iterator
from typing import Any


def format_report(report: dict[str, Any]) -> Iterator[str]:
    """Lines that say what was looked at, and whether each property holds."""
    r = report
    yield (
        f"{r['subject']}: {len(r['samples_by_source'])} sources in {r['num_shards']:,} shards, "
        f"{r['num_samples']:,} samples of {r['sequence_length']:,} tokens, "
        f"{r['num_steps']:,} steps of {r['global_batch_size']:,}"
    )
    yield f"  {r['tokens_left_over']:,} tokens at the ends of shards are too few for a sample"
    if run := r["run"]:
        skipped = run["samples_skipped"]
        yield (
            f"  {run['checkpoint'] or 'no checkpoint yet'}: {run['samples_consumed']:,} samples "
            "consumed"
            + (f" ({skipped:,} of them in batches that health skipped)" if skipped else "")
            + f", {r['num_samples'] - run['samples_consumed']:,} still unseen"
        )
    yield "  " + ", ".join(_scenario(r))
    yield ""
    looked = "all" if r["exhaustive"] else f"{r['num_checked']:,} of {r['num_samples']:,}"
    for wrong, sentence in _properties(r, looked):
        yield f"  {'FAILED' if wrong else 'ok':6} {sentence}" + (
            f" Wrong: {wrong:,}." if wrong else ""
        )
    yield from _shares(r)
    yield ""
    yield f"  data state {r['state_bytes']:,} bytes, digest of the order {r['order_digest']}"
    result = "the order holds" if r["ok"] else "THE ORDER DOES NOT HOLD"
    yield f"  {result} ({r['seconds']} s)"


def _scenario(r: dict[str, Any]) -> Iterator[str]:
    sizes = list(zip(r["world_sizes"], r["micro_batches"], strict=True))
    yield f"{sizes[0][0]} rank(s) with micro-batches of {sizes[0][1]} from step 0"
    events = [
        (step, f"restart at step {step:,}" + (_on(sizes[i + 1]) if i + 1 < len(sizes) else ""))
        for i, step in enumerate(r["restarts"])
    ]
    events += [
        (step, f"{number:,} samples appended at step {step:,}")
        for step, number in zip(r["appends"], r["samples_appended"], strict=True)
    ]
    for _, text in sorted(events):
        yield text


def _on(size: tuple[int, int]) -> str:
    return f" on {size[0]} with {size[1]}"


def _properties(r: dict[str, Any], looked: str) -> Iterator[tuple[int, str]]:
    """(number of faults, what was checked and how) of each property."""
    total = f"{r['num_samples']:,}"
    promised = f"the shards and weights promise {total} (source, epoch, block)"
    if r["exhaustive"]:
        lost = f"Nothing is lost: {promised}, and every one was given out."
        repeated = f"Nothing is repeated: {total} samples were looked at, no two are the same."
    else:
        lost = f"Nothing is lost: {promised}, as many as there are samples, and"
        repeated = (
            f"nothing is repeated: the order is one-to-one. {r['num_checked']:,} samples all along "
            f"it differ; {r['num_inverted']:,} numbers came back through its permutations."
        )
    yield r["num_lost"], lost
    yield r["num_repeated"], repeated
    found = (
        f"Every block comes when the order says: {r['num_looked_up']:,} were drawn from the "
        "shards, the order named the sample of each, and that sample is the block."
    )
    yield r["num_not_found"], found
    inside = (
        f"Every sample ({looked}) lies inside of its shard, begins at a multiple of "
        f"{r['sequence_length']:,} tokens, and within its source's epochs."
    )
    yield r["num_misplaced"], inside
    yield from _held_out(r, looked)
    same = (
        f"Ranks, micro-batches, restarts and appends change nothing: what the ranks were given in "
        f"each step ({looked} samples) is what one rank is given that is never interrupted."
    )
    yield r["num_differing"], same


def _held_out(r: dict[str, Any], looked: str) -> Iterator[tuple[int, str]]:
    """Faults of blocks, documents and shares that are held out."""
    found, fraction = r["held_out"], r["validation_fraction"]
    number = sum(r["validation_samples_by_source"].values())
    if not fraction:
        yield r["num_leaked"], "No validation is held out."
    else:
        yield (
            r["num_leaked"],
            f"Validation is never trained on: {number:,} blocks are cut from shards of held-out "
            f"documents, and no sample ({looked}) lies in one of these.",
        )
    if missing := found["num_without_shards"]:
        yield 0, f"Not looked at: documents of {missing} packing(s) without shards at hand."
    if not found["num_documents"] or not any(share["fraction"] for share in found["shares"]):
        return
    yield (
        found["num_leaked_documents"],
        f"Documents are held out whole: of {found['num_documents']:,} that were looked at, the "
        f"digests of the {found['num_held_out']:,} held-out ones lie below {fraction:g} of all "
        "(or the fraction of their own packing), and no other does.",
    )
    off = [_source(share) for share in found["shares"] if not share["within"]]
    yield (
        found["num_sources_off"],
        "The share of documents held out of each source is as chance would have it."
        if not off
        else f"The share of documents held out is not what chance would give: {'; '.join(off)}.",
    )


def _source(share: dict[str, Any]) -> str:
    where = "" if share["append"] is None else f" (append {share['append']})"
    return (
        f"{share['source']}{where}: {share['documents_held_out']:,} of {share['documents']:,} "
        f"documents, {share['share_of_documents']:.2%} (expected {share['fraction']:.2%} "
        f"± {share['tolerance']:.2%}), {share['share_of_tokens']:.2%} of the tokens"
    )


def _shares(r: dict[str, Any]) -> Iterator[str]:
    """A line for each source: its documents and tokens held out, and its validation blocks."""
    if not any(share["fraction"] for share in r["held_out"]["shares"]):
        return
    yield ""
    yield "  held out, with four standard deviations and three documents as tolerance:"
    for share in r["held_out"]["shares"]:
        blocks = r["validation_samples_by_source"].get(share["source"], 0)
        if share["append"] is not None:
            note = "; not part of this run's validation"
        elif blocks:
            note = f"; blocks of validation: {blocks:,}"
        elif share["tokens_held_out"]:
            note = "; too short for a block: NO VALIDATION LOSS OF ITS OWN"
        else:
            note = "; nothing: NO VALIDATION LOSS OF ITS OWN"
        yield f"    {_source(share)}{note}"
