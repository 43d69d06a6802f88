"""What SFT and DPO share around TRL's trainers: loading, resuming, stopping, measuring, saving.

    job.json ──▶ Transformers folder ──▶ TRL trainer ──▶ <output>/model   (published by one rename)
                                            │  ▲
          <output>/metrics.jsonl ◀── Recorder  └── <scratch>/checkpoint-N with complete.json

A checkpoint counts only with `complete.json`, which is written when every rank has saved its part:
Transformers would resume from the highest number, complete or not. A checkpoint of the last step
is never resumed (the trainer would train one step more): its weights are the result.
"""

import json
import logging
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from model.train.run.folder import METRICS_FILE, MODEL_FOLDER

# Progress goes to metrics.jsonl; bars would only fill the log.
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
if os.environ.get("WORLD_SIZE") == "1":
    # A process group of one would only wrap the model in DDP.
    for _name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        os.environ.pop(_name, None)

import torch
import torch.distributed as dist
import trl.trainer.utils as trl_utils
from datasets import Dataset, Features, Value
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.utils.logging import disable_progress_bar

import model.modeling_steel as _registers_auto_classes  # noqa: F401
from common.errors import DataError, StageError, SteelError
from common.files import publish_folder, sync, write_text
from model.train.distributed.signals import EXIT_STOPPED, StopFlag
from model.train.finetune.config import TuneJob, TuneSettings
from model.train.run.metrics import JsonlSink

log = logging.getLogger("steel.tune")

COMPLETE = "complete.json"
"""Inside a checkpoint: {"step", "files": {name: bytes}}."""

KEEP_LAST = 2
"""Checkpoints on disk: the newest might still be in the making."""


def score_targets_only() -> None:
    """Let TRL project only the positions that have a target onto the vocabulary, on a CPU too.

    Without Triton it projects every position (for compilers that want fixed shapes), which was 58 %
    of the time of SFT here: answers are short, prompts and padding are not. The result is the same.
    """
    trl_utils._use_triton = lambda device: True


def load_model(folder: str) -> PreTrainedModel:
    """The model in fp32, as mixed precision wants its master weights."""
    loaded: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, trust_remote_code=False, local_files_only=True
    )
    return loaded


def load_tokenizer(folder: str) -> PreTrainedTokenizerBase:
    """The tokenizer beside a model. Raises DataError when it has no chat template."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        folder, trust_remote_code=False, local_files_only=True
    )
    if not tokenizer.chat_template:
        raise DataError(
            f"the tokenizer in {folder} has no chat template: export the model with Steel, which "
            "puts model/tokenizer/chat_template.jinja beside it"
        )
    return tokenizer


MESSAGES = [{"role": Value("string"), "content": Value("string")}]
"""Type of a list of chat messages."""


def read_rows(job: TuneJob, columns: dict[str, Any]) -> Dataset:
    """The job's JSON lines, memory-mapped, with these columns ({name: type}) and no others.

    What TRL derives from them (ids, labels) is kept beside them in the scratch folder, so a second
    rank and a resumed run find it done.
    """
    rows: Dataset = Dataset.from_json(
        job.data,
        features=Features({**columns, **{name: Value("string") for name in job.notes}}),
        cache_dir=str(Path(job.scratch) / "datasets"),
    )
    return rows.select_columns(list(columns))


def preparation_workers(rows: Dataset) -> int | None:
    """Processes that turn rows into ids; a few rows aren't worth starting any."""
    return os.cpu_count() if len(rows) >= 50_000 else None


def num_processes() -> int:
    """Ranks of this run."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def trainer_arguments(job: TuneJob, settings: TuneSettings) -> dict[str, Any]:
    """Keyword arguments for TRL's SFTConfig and DPOConfig."""
    gpu = torch.cuda.is_available()
    bf16 = settings.precision == "bf16" or (
        settings.precision == "auto" and gpu and torch.cuda.is_bf16_supported()
    )
    return {
        "output_dir": job.scratch,
        "num_train_epochs": settings.epochs,
        "max_steps": settings.max_steps or -1,
        "per_device_train_batch_size": settings.micro_batch_size,
        "gradient_accumulation_steps": settings.accumulation(num_processes()),
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
        "ddp_backend": "gloo" if num_processes() > 1 and not gpu else None,
        "ddp_find_unused_parameters": False,
        # Rank 0 prepares millions of conversations while the others wait.
        "ddp_timeout": 4 * 3600,
        "activation_checkpointing": settings.activation_checkpointing,
        "train_sampling_strategy": "group_by_length" if settings.group_by_length else "random",
        "dataloader_pin_memory": gpu,
        "seed": settings.seed,
        "data_seed": settings.seed,
        "save_strategy": "steps",
        "save_steps": settings.checkpoint_interval,
        "save_total_limit": KEEP_LAST,
        "logging_steps": settings.log_interval,
        "logging_first_step": True,
        "logging_nan_inf_filter": False,
        "report_to": "none",
        "disable_tqdm": True,
        # Nothing of ours asks for it, and the hub is never written to.
        "push_to_hub": False,
        "eval_strategy": "no",
    }


def complete_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    found: list[tuple[int, Path]] = []
    for path in folder.glob("checkpoint-*"):
        try:
            marker = json.loads((path / COMPLETE).read_text(encoding="utf-8"))
            whole = all(
                (path / name).stat().st_size == size for name, size in marker["files"].items()
            )
        except (OSError, ValueError, KeyError):
            continue
        if whole:
            found.append((marker["step"], path))
    return [path for _, path in sorted(found)]


def forget_incomplete(folder: Path) -> None:
    """Remove what an interrupted save has left: the trainer would count it as a checkpoint."""
    complete = complete_checkpoints(folder)
    for path in folder.glob("checkpoint-*"):
        if path not in complete:
            log.warning("%s is incomplete (an interrupted save); it is removed", path.name)
            shutil.rmtree(path)


class Recorder(TrainerCallback):
    """metrics.jsonl, complete checkpoints, and the end on SIGTERM or a loss that is not finite."""

    NAMES: Mapping[str, str] = {
        "loss": "train/loss",
        "grad_norm": "train/grad_norm",
        "learning_rate": "train/learning_rate",
        "epoch": "train/epoch",
        "entropy": "train/entropy",
        "mean_token_accuracy": "train/token_accuracy",
        "rewards/chosen": "train/reward_chosen",
        "rewards/rejected": "train/reward_rejected",
        "rewards/accuracies": "train/preference_accuracy",
        "rewards/margins": "train/reward_margin",
        "logps/chosen": "train/logp_chosen",
        "logps/rejected": "train/logp_rejected",
    }
    """Names in the trainer's log -> ours; others are left out."""

    def __init__(self, sink: JsonlSink, stop: StopFlag) -> None:
        self.sink, self.stop = sink, stop
        self.stopped = False
        self._tokens = 0.0
        self._time = time.monotonic()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self._time = time.monotonic()
        if state.is_world_process_zero:
            self.sink.resume(state.global_step)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        requested = self.stop.requested
        if dist.is_initialized() and dist.get_world_size() > 1:
            # All ranks must stop at the same step, whichever of them got the signal.
            flag = torch.tensor(float(requested), device=args.device)
            dist.all_reduce(flag, dist.ReduceOp.MAX)
            requested = bool(flag)
        if requested:
            self.stopped = True
            control.should_save = control.should_training_stop = True

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        logs = logs or {}
        if "loss" not in logs:
            return  # the trainer's summary at the end
        if not math.isfinite(logs["loss"]):
            raise StageError(
                f"the loss is {logs['loss']} after step {state.global_step}: lower the learning "
                "rate, or look for broken rows in the mixture"
            )
        if not state.is_world_process_zero:
            return
        metrics = {ours: float(logs[name]) for name, ours in self.NAMES.items() if name in logs}
        now = time.monotonic()
        if "num_tokens" in logs:  # counted by TRL since the start of this process
            rate = (logs["num_tokens"] - self._tokens) / max(now - self._time, 1e-9)
            metrics["perf/tokens_per_second"] = rate
            self._tokens = logs["num_tokens"]
        self._time = now
        self.sink.log(state.global_step, metrics)

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if dist.is_initialized():
            dist.barrier()  # every rank has written its random state
        if state.is_world_process_zero:
            self.sink.flush()
            mark_complete(
                Path(str(args.output_dir)) / f"checkpoint-{state.global_step}", state.global_step
            )


def mark_complete(checkpoint: Path, step: int) -> None:
    """Make a checkpoint durable, then say so inside it."""
    files = [path for path in checkpoint.rglob("*") if path.is_file() and path.name != COMPLETE]
    for path in files:
        sync(path)
    sizes = {str(path.relative_to(checkpoint)): path.stat().st_size for path in files}
    write_text(checkpoint / COMPLETE, json.dumps({"step": step, "files": sizes}))
    sync(checkpoint.parent)


def fit(job: TuneJob, tokenizer: PreTrainedTokenizerBase, build: Callable[[Recorder], Any]) -> int:
    """Train from the newest complete checkpoint to the end, and publish the model.

    Args:
        job: where everything is.
        tokenizer: goes beside the published model.
        build: makes the TRL trainer, given the callback it needs.

    Returns: the exit code, 0 or EXIT_STOPPED (stopped on SIGTERM after a complete checkpoint).

    Raises:
        StageError: the loss was not finite.
    """
    scratch, result = Path(job.scratch), Path(job.output) / MODEL_FOLDER
    if (result / "config.json").exists():
        log.info("%s is finished", result)
        return 0
    first = int(os.environ.get("RANK", "0")) == 0
    checkpoints = complete_checkpoints(scratch)
    newest = checkpoints[-1] if checkpoints else None
    if newest is not None and _at_the_end(newest):
        log.info("%s holds the last step", newest.name)
        if first:
            publish_model(load_model(str(newest)), tokenizer, result)
        return 0
    score_targets_only()
    stop = StopFlag().install()
    recorder = Recorder(JsonlSink(Path(job.output) / METRICS_FILE), stop)
    trainer = build(recorder)
    trainer.remove_callback(PrinterCallback)  # metrics.jsonl has it all
    if trainer.is_world_process_zero():
        forget_incomplete(scratch)
    if dist.is_initialized():
        dist.barrier()
    trainer.train(resume_from_checkpoint=str(newest) if newest else None)
    if recorder.stopped:
        log.warning("stopped after step %d, with a complete checkpoint", trainer.state.global_step)
        return EXIT_STOPPED
    if trainer.is_world_process_zero():
        publish_model(trainer.accelerator.unwrap_model(trainer.model), tokenizer, result)
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()
    return 0


def _at_the_end(checkpoint: Path) -> bool:
    state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    return bool(state["global_step"] >= state["max_steps"])


def publish_model(
    trained: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, result: Path
) -> None:
    """Write model and tokenizer as a Transformers folder that appears complete or not at all."""
    partial = result.with_name(f"{result.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    # A chat turn ends with <|im_end|>, a document with eos: generation stops at both.
    trained.generation_config.eos_token_id = sorted({end, tokenizer.eos_token_id}, reverse=True)
    trained.generation_config.pad_token_id = tokenizer.pad_token_id
    trained.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    publish_folder(partial, result)


def run_entry(main: Callable[[list[str]], int]) -> None:
    """Run an entry as a program: exit 0, 2 for a user's error, 143 after SIGTERM."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    disable_progress_bar()
    for noisy in ("datasets", "transformers", "accelerate", "trl"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    try:
        code = main(sys.argv[1:])
    except SteelError as error:
        log.error("%s", error)
        code = 2
    sys.exit(code)
