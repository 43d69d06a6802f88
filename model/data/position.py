"""How often each source was read after some samples of an order, without looking at any of them."""

from collections import defaultdict

from model.data.order import SampleOrder


def expected_epochs(order: SampleOrder, consumed: int) -> dict[str, float]:
    """Epochs of each source in the first `consumed` samples, as the permutation's mean.

    A pseudo-random order spreads every source evenly over what is still unseen, so between two
    appends a source is read in proportion to what is left of it. What was really read differs by
    the noise of drawing without replacement: at most sqrt(n) / 2 of n samples.
    """
    left: dict[str, float] = defaultdict(float)
    blocks: dict[str, int] = defaultdict(int)
    read: dict[str, float] = dict.fromkeys(order.sources, 0.0)
    for segment, after in zip(order._segments, [*order._segments[1:], None], strict=True):
        if segment.at and segment.at >= consumed:
            break
        for part in segment.slots.parts:
            left[order.sources[part.source_id]] += part.num_slots
            blocks[order.sources[part.source_id]] += part.num_training
        end = consumed if after is None else min(consumed, after.at)
        share = (end - segment.at) / max(1, segment.permutation.n)
        for name, number in list(left.items()):
            read[name] += number * share
            left[name] = number * (1 - share)
    return {name: samples / blocks[name] if blocks[name] else 0.0 for name, samples in read.items()}
