"""Loss and gradient of every step of a fine-tuning, from its trainer and from a plain loop.

The plain loop encodes ChatML by hand, sends one sequence at a time through the network, without
padding and packing, and takes one mean over all targets or pairs of the step.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch.distributed.tensor import DTensor
from torch.nn import functional
from transformers import AutoModelForCausalLM, TrainerCallback

from tests.model.train.finetune import recording
from tests.tiny_chat import byte_tokenizer

Gradients = dict[str, torch.Tensor]

SETTINGS = {"learning_rate": 1e-30, "max_grad_norm": 1e9, "weight_decay": 0.0, "epochs": 1}
"""A training whose weights stay as they are and whose gradients are not clipped."""


def train(method: str, output: Path, reference: Path | None = None) -> int:
    """Run a job, and save the gradient of every step.

    reference: folder of the reference model of DPO, in place of the policy's own.
    """

    def prepare(trainer: Any) -> None:
        if method == "sft":
            _save_gradients(trainer, output)
            return
        trainer.add_callback(_Saver(trainer, output))
        if reference is not None:
            network = trainer.accelerator.unwrap_model(trainer.ref_model)
            network.load_state_dict(load_file(reference / "model.safetensors"), strict=False)

    return recording.train(method, output, prepare=prepare)


def train_in_rank(method: str, output: Path, reference: Path | None = None) -> None:
    """`train` in a process of its own."""
    recording.write_log(output)
    sys.exit(train(method, output, reference))


def _save_gradients(trainer: Any, output: Path) -> None:
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


class _Saver(TrainerCallback):
    def __init__(self, trainer: Any, output: Path) -> None:
        self.trainer, self.output = trainer, output

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        network = self.trainer.accelerator.unwrap_model(self.trainer.model)
        found = gradients_of(network)
        if state.is_world_process_zero:
            save_file(found, self.output / f"gradient-{state.global_step + 1}.safetensors")


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


def dpo_steps(
    model: Path,
    reference: Path,
    output: Path,
    rows: Sequence[Mapping[str, Any]],
    loss_of_pair: Callable[..., torch.Tensor],
) -> Iterator[tuple[int, float, Gradients]]:
    """(step, mean loss over its pairs, gradient) of each step that a run made.

    loss_of_pair: of ((log pi/pi_ref, tokens) of the chosen answer, the same of the rejected one).
    """
    policy, other = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        for folder in (model, reference)
    )
    named = {recording.content(_whole(row, "chosen")): row for row in rows}
    for step, of_step in _steps(output):
        policy.zero_grad()
        losses = []
        for row in (named[name] for name in of_step):
            ratios = []
            for key in ("chosen", "rejected"):
                ids = _whole(row, key)
                begin = len(_whole(row, None))
                with torch.no_grad():
                    before = _log_probability(other, ids, begin)
                ratios.append((_log_probability(policy, ids, begin) - before, len(ids) - begin))
            losses.append(loss_of_pair(*ratios))
        loss = torch.stack(losses).mean()
        loss.backward()
        yield step, loss.item(), gradients_of(policy)


def _steps(output: Path) -> Iterator[tuple[int, list[int]]]:
    seen = recording.seen(output)
    for step in sorted(seen):
        assert set(Counter(seen[step]).values()) == {1}
        yield step, list(seen[step])


def _whole(row: Mapping[str, Any], answer: str | None) -> list[int]:
    prompt, _ = chatml(row["prompt"])
    prompt += encode("<|im_start|>assistant\n")
    return prompt + (encode(f"{row[answer][0]['content']}<|im_end|>\n") if answer else [])


def _log_probability(network: Any, ids: list[int], begin: int) -> torch.Tensor:
    """log P(ids[begin:] | ids[:begin])."""
    logits = network(torch.tensor([ids])).logits[0, begin - 1 : -1]
    return logits.log_softmax(-1).gather(1, torch.tensor(ids[begin:])[:, None]).sum()
