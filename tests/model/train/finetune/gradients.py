"""Loss and gradient of every step of a fine-tuning, from its trainer and from a plain loop.

The plain loop encodes ChatML by hand, sends one sequence at a time through the network, without
padding and packing, and takes one mean over all targets or pairs of the step.
"""

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch.distributed.tensor import DTensor
from torch.nn import functional
from transformers import AutoModelForCausalLM

from tests.model.train.finetune import recording
from tests.tiny_chat import byte_tokenizer

Gradients = dict[str, torch.Tensor]

SETTINGS = {"learning_rate": 1e-30, "max_grad_norm": 1e9, "weight_decay": 0.0, "epochs": 1}
"""A training whose weights stay as they are and whose gradients are not clipped."""


def train(method: str, output: Path) -> int:
    """Run a job, and save the gradient of every step."""
    return recording.train(method, output, prepare=lambda trainer: save_gradients(trainer, output))


def train_in_rank(method: str, output: Path) -> None:
    """`train` in a process of its own."""
    recording.write_log(output)
    sys.exit(train(method, output))


def save_gradients(trainer: Any, output: Path) -> None:
    """Save the gradient of every step that a trainer makes from now on."""
    original = trainer.train_step.update

    def update(gradients: Any, *, num_targets: int, **rest: Any) -> None:
        scale = gradients.num_tokens / num_targets
        found = {
            name: scale * (grad.full_tensor() if isinstance(grad, DTensor) else grad)
            for name, grad in gradients_of(trainer.model).items()
        }
        if trainer.ranks.is_main:
            step = trainer.progress.step + 1
            save_file(found, output / f"gradient-{step}.safetensors")
        original(gradients, num_targets=num_targets, **rest)

    trainer.train_step.update = update


def saved_gradients(output: Path, step: int) -> Gradients:
    """Gradient of a step as the trainer had it."""
    return load_file(output / f"gradient-{step}.safetensors")


def gradients_of(network: Any) -> Gradients:
    """Gradient of each parameter; 0 where there is none."""
    return {
        name: (torch.zeros_like(p) if p.grad is None else p.grad).detach().clone()
        for name, p in network.named_parameters()
    }


def encode(text: str) -> list[int]:
    """Ids of a text."""
    ids: list[int] = byte_tokenizer()(text, add_special_tokens=False)["input_ids"]
    return ids


def chatml(messages: Sequence[Mapping[str, str]]) -> tuple[list[int], list[int]]:
    """ids and labels by hand: ChatML around each turn, targets only where the assistant speaks."""
    if messages[0]["role"] != "system":
        messages = [{"role": "system", "content": "You are a helpful assistant."}, *messages]
    ids: list[int] = []
    labels: list[int] = []
    for message in messages:
        head = encode(f"<|im_start|>{message['role']}\n")
        body = encode(f"{message['content']}<|im_end|>")
        end = encode("\n")
        ids += head + body + end
        spoken = body if message["role"] == "assistant" else [-100] * len(body)
        labels += [-100] * len(head) + spoken + [-100] * len(end)
    return ids, labels


def sft_steps(
    model: Path, output: Path, rows: Sequence[Mapping[str, Any]], max_length: int
) -> Iterator[tuple[int, float, Gradients]]:
    """(step, mean loss over all its targets, gradient) of each step that a run made."""
    encoded = [chatml(row["messages"]) for row in rows]
    samples = [(ids[:max_length], labels[:max_length]) for ids, labels in encoded]
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    named = {recording.content(ids): (ids, labels) for ids, labels in samples}
    for step, of_step in _steps(output):
        losses, targets = [], 0
        network.zero_grad()
        for ids, labels in (named[name] for name in of_step):
            logits = network(torch.tensor([ids])).logits[0, :-1]
            goal = torch.tensor(labels[1:])
            losses.append(functional.cross_entropy(logits, goal, reduction="sum"))
            targets += int((goal != -100).sum())
        loss = torch.stack(losses).sum() / targets
        loss.backward()
        yield step, loss.item(), gradients_of(network)


def _steps(output: Path) -> Iterator[tuple[int, list[int]]]:
    seen = recording.seen(output)
    for step in sorted(seen):
        assert set(Counter(seen[step]).values()) == {1}
        yield step, list(seen[step])
