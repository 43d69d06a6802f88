"""Rounding by which a batch of generated answers differs from its rows alone.

python -m benchmarks.generation_rounding

Random Steel models answer eight prompts of different lengths in one left-padded batch with a
key-value cache; each step is computed again for each row alone, without padding and cache. Largest
difference of a logit, as a share of the largest logit, and choices that differ. Thresholds are
those of `ROUNDING` (model/evaluate/generation.py), which must lie well above it.
"""

import random
from typing import Any

import torch
from transformers.cache_utils import DynamicCache

from model import SteelConfig, SteelForCausalLM
from model.evaluate.generation import ROUNDING

ROWS, STEPS, VOCABULARY = 8, 12, 2000


def compare(network: Any) -> tuple[float, int]:
    """Largest difference, and number of choices that differ of ROWS x STEPS."""
    draw = random.Random(1)
    rows = [[draw.randrange(VOCABULARY) for _ in range(draw.randint(5, 120))] for _ in range(ROWS)]
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    positions = (mask.cumsum(-1) - 1).clamp_min(0)
    cache = DynamicCache(config=network.config)
    worst, differ = 0.0, 0
    for _ in range(STEPS):
        output = network(
            ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
        )
        logits = output.logits[:, -1].float()
        for row, batched in zip(rows, logits, strict=True):
            alone = network(torch.tensor([row]), use_cache=False).logits[0, -1].float()
            worst = max(worst, ((batched - alone).abs().max() / alone.abs().max()).item())
            differ += int(batched.argmax() != alone.argmax())
            row.append(int(alone.argmax()))
        ids = torch.tensor([[row[-1]] for row in rows])
        mask = torch.cat([mask, torch.ones(ROWS, 1, dtype=mask.dtype)], dim=1)
        positions = positions[:, -1:] + 1
    return worst, differ


def main() -> None:
    """Print a table."""
    print("hidden  layers  routing  dtype           largest  threshold  other choices")
    for hidden, layers in ((64, 4), (256, 8), (512, 12)):
        for routing in ("token", "dense"):
            torch.manual_seed(0)
            config = SteelConfig(
                vocab_size=VOCABULARY,
                hidden_size=hidden,
                num_hidden_layers=layers,
                num_attention_heads=4,
                num_experts=4,
                expert_intermediate_size=hidden // 4,
                routing=routing,
                initializer_range=0.1,
            )
            network: Any = SteelForCausalLM(config).eval()
            for dtype in (torch.float32, torch.bfloat16):
                with torch.inference_mode():
                    worst, differ = compare(network.to(dtype))
                print(
                    f"{hidden:6d}  {layers:6d}  {routing:7s}  {dtype!s:14s}  {worst:.1e}  "
                    f"{ROUNDING[dtype]:.1e}    {differ} of {ROWS * STEPS}"
                )


if __name__ == "__main__":
    main()
