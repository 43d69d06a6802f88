"""Examples at the end of each `--help`. Tests parse each one and look for the files it names."""

import argparse
from collections.abc import Mapping

EXAMPLES: dict[str, tuple[str, ...]] = {
    "run": (
        "steel run deployments/smoke.yaml",
        "steel run deployments/smoke.yaml --stages data --store store-mine",
        "steel run deployments/smoke.yaml --set pretrain.steps=60 --set pretrain.seed=2",
        "steel run deployments/real-sample.yaml --fraction 0.01",
    ),
    "start": (
        "steel start pretrain -p steps=60",
        "steel start sft -p mixture=smoke-chinese --name first-try --no-watch",
    ),
    "check": ("steel check deployments/steel-1b.yaml", "steel check deployments/smoke.yaml --plan"),
    "plan": (
        "steel plan deployments/steel-1b.yaml --gpu h100 --count 8",
        "steel plan deployments/steel-1b.yaml --set pretrain.micro_batch_size=4 --gpu 4090",
        "steel plan deployments/smoke.yaml --against deployments/smoke-mixtures.yaml --json",
    ),
    "evaluate": (
        "steel evaluate newest",
        "steel evaluate sft/balanced --config deployments/real-sample.yaml --json",
    ),
    "report": ("steel report", "steel report --store store-mine --json"),
    "trace": ("steel trace NUMBER_ID", "steel trace NUMBER_ID --json"),
    "explain": ("steel explain skypile/part-0000.jsonl#12",),
    "mixture-ablation": (
        "steel mixture-ablation deployments/smoke-mixtures.yaml --dry-run",
        "steel mixture-ablation deployments/smoke-mixtures.yaml --seeds 1,2,3 --parallel 2",
    ),
    "kernel-ablation": ("steel kernel-ablation --experiments 1,8 --steps 20",),
    "ffn-ablation": (
        "steel ffn-ablation deployments/smoke.yaml --routings token,uniform,dense --seeds 1,2,3",
    ),
    "data-ablation": (
        "steel data-ablation --recipes paper,repaired --seeds 1,2",
        "steel data-ablation deployments/data-ablation.yaml --steps 300",
    ),
    "verify": ("steel verify", "steel verify store-mine --json"),
    "verify-order": (
        "steel verify-order store --ranks 8,4,8 --restart 40",
        "steel verify-order newest:pretrain",
        "steel verify-order --simulate 500M --append 50M@900",
    ),
    "review": (
        "steel review",
        "steel review store --stage newest --no-browser --port 8642",
        "steel review --check --recipes curated",
    ),
    "contamination": (
        "steel contamination",
        "steel contamination store --benchmark cmmlu --number 5",
        "steel contamination --stage newest:sft",
    ),
    "append": (
        "steel append newest newest:pack",
        "steel append smoke 1f0c5a2b --at-step 4000 --weight skypile=2 --steps extend",
    ),
    "refresh": (
        "steel refresh deployments/smoke.yaml",
        "steel refresh deployments/smoke.yaml --run newest --steps extend --json",
    ),
    "reschedule": (
        "steel reschedule newest --steps 20000",
        "steel reschedule newest --decay-at now",
    ),
    "profile": ("steel profile newest --steps 3",),
    "evaluate-checkpoints": (
        "steel evaluate-checkpoints newest --watch",
        "steel evaluate-checkpoints --config deployments/real-sample.yaml",
    ),
    "chat": (
        "steel chat newest",
        "steel chat sft/balanced --temperature 0.7 --top-p 0.9",
        "steel chat pretrain --checkpoint 60 --prompt 你好",
    ),
    "export": (
        "steel export newest --to model-mine",
        "steel export sft/balanced --to model-mine --form steel --dtype bfloat16",
    ),
    "import": ("steel import PUBLISHED_FOLDER model-mine --routing token",),
    "list": (
        "steel list",
        "steel list pretrain sft --number 5",
        "steel list --store store-mine --json",
    ),
    "gc": (
        "steel gc",
        "steel gc --for deployments/smoke.yaml --keep 1 --keep-checkpoints 1",
        "steel gc --models --delete",
    ),
    "doctor": ("steel doctor", "steel doctor --offline --json", "steel doctor --repair"),
    "status": ("steel status", "steel status --store store-mine --json"),
}
"""Command -> lines to type."""


class Formatter(argparse.HelpFormatter):
    """Keeps the lines of a text that has some."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if "\n" in text else super()._fill_text(text, width, indent)


def add_examples(commands: Mapping[str, argparse.ArgumentParser]) -> None:
    """Give each command its examples."""
    for name, command in commands.items():
        if lines := EXAMPLES.get(name):
            command.formatter_class = Formatter
            command.epilog = "\n".join(["examples:", *(f"  {line}" for line in lines)])
