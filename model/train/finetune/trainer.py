"""Making of TRL's trainers: model, tokenizer, rows and arguments, alike for SFT and DPO."""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import torch
import trl.trainer.utils as trl_utils
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback

from common.errors import ConfigError, DataError
from model.config import SteelConfig
from model.load import load_causal_lm
from model.tokenizer.conversation import protect_chat_template
from model.tokenizer.folder import check_model_folder, load_folder_tokenizer
from model.train.architectures.probe import check_architecture
from model.train.finetune.checkpoints import KEEP_LAST
from model.train.finetune.config import FinetuneJob
from model.train.finetune.prepare import prepare_rows
from model.train.finetune.recorder import Recorder
from model.train.model_settings import ON_CPU

log = logging.getLogger("steel.finetune")

JobT = TypeVar("JobT", bound=FinetuneJob)

Build: TypeAlias = Callable[[JobT, dict[str, Any], dict[str, Any]], Any]
"""Makes a TRL trainer of a job, the shared arguments of its config, and the shared arguments of
the trainer."""


def score_targets_only() -> None:
    """Let TRL project only the positions that have a target onto the vocabulary, on a CPU too.

    Without Triton it projects every position (for compilers that want fixed shapes), which was 58 %
    of the time of SFT here: answers are short, prompts and padding are not. The result is the same.
    """
    trl_utils._use_triton = lambda device: True


def load_model(folder: str) -> PreTrainedModel:
    """Load a model in fp32, as mixed precision wants its master weights."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return load_causal_lm(folder, torch.float32, device)


def check_packing(network: PreTrainedModel) -> None:
    """Refuse to pack conversations for an architecture in which they would see each other.

    Steel's own keeps them apart; any other is tried out. Raises ConfigError.
    """
    if network.config.model_type == SteelConfig.model_type:
        return
    attention = network.config._attn_implementation
    try:
        check_architecture(
            network.config,
            attention=attention if attention in ON_CPU else "sdpa",
            separate_documents=True,
        )
    except ConfigError as error:
        raise ConfigError(f"packing: true: {error}; or set packing: false") from error


def load_tokenizer(folder: str) -> PreTrainedTokenizerBase:
    """Load the tokenizer beside a model; only its chat template makes control tokens.

    Raises DataError when it is missing, is not the model's own, or has no chat template.
    """
    tokenizer = load_folder_tokenizer(Path(folder))
    check_model_folder(Path(folder), tokenizer)
    if not tokenizer.chat_template:
        raise DataError(
            f"the tokenizer in {folder} has no chat template: export the model with Steel, which "
            "puts model/tokenizer/chat_template.jinja beside it"
        )
    return protect_chat_template(tokenizer)


def trainer_arguments(job: FinetuneJob) -> dict[str, Any]:
    """Keyword arguments that TRL's SFTConfig and DPOConfig share."""
    settings = job.settings
    num_processes = int(os.environ.get("WORLD_SIZE", "1"))
    gpu = torch.cuda.is_available()
    bf16 = settings.precision == "bf16" or (
        settings.precision == "auto" and gpu and torch.cuda.is_bf16_supported()
    )
    return {
        "output_dir": job.scratch,
        "num_train_epochs": settings.epochs,
        "max_steps": settings.max_steps or -1,
        "per_device_train_batch_size": settings.micro_batch_size,
        "gradient_accumulation_steps": settings.accumulation(num_processes),
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": settings.schedule,
        "warmup_steps": settings.warmup_fraction,
        "weight_decay": settings.weight_decay,
        "adam_beta1": settings.betas[0],
        "adam_beta2": settings.betas[1],
        "max_grad_norm": settings.max_grad_norm,
        "max_length": settings.max_length,
        "bf16": bf16,
        "use_cpu": not gpu,
        "ddp_backend": "gloo" if num_processes > 1 and not gpu else None,
        "ddp_find_unused_parameters": False,
        # Rank 0 prepares millions of conversations while the others wait.
        "ddp_timeout": 4 * 3600,
        "activation_checkpointing": settings.activation_checkpointing,
        "dataloader_pin_memory": gpu,
        "seed": settings.seed,
        "data_seed": settings.seed,
        "save_strategy": "steps",
        "save_steps": settings.checkpoint_interval,
        "save_total_limit": KEEP_LAST,
        # Every step is judged, and its own loss known; the recorder writes those that are due.
        "logging_steps": 1,
        # It would put the average of earlier steps in the place of a loss that is not finite.
        "logging_nan_inf_filter": False,
        "report_to": "none",
        "disable_tqdm": True,
        # The hub is never written to, and there are no evaluation rows.
        "push_to_hub": False,
        "eval_strategy": "no",
    }


def make_trainer(job: JobT, build: Build[JobT], recorder: Recorder) -> Any:
    """TRL's trainer for a job. Raises DataError when no row has an answer left."""
    score_targets_only()
    # Rows first: a job without any ends before its model is read.
    tokenizer = load_tokenizer(job.model)
    prepared = prepare_rows(job, tokenizer)
    network = load_model(job.model)
    if getattr(job.settings, "packing", False):
        check_packing(network)
    trainer = build(
        job,
        trainer_arguments(job),
        {
            "model": network,
            "train_dataset": prepared.rows,
            "processing_class": tokenizer,
            "callbacks": [recorder],
        },
    )
    trainer.use(prepared.order)
    recorder.use_order(prepared.order, job.settings)
    log.info("%d rows to train on", prepared.order.num_samples)
    trainer.remove_callback(PrinterCallback)  # metrics.jsonl has it all
    return trainer
