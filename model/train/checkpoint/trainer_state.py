"""The files of a checkpoint that say where a trainer stands, written and read.

    trainer.json       step and batch, length, health, what callbacks remember
    data_state.json    position in the data
    …                  settings, model, tokenizer: the same ones in every checkpoint

Beside them lie the tensors (staging.py).
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from model.train.checkpoint.progress import Progress
from model.train.checkpoint.staging import restore_steps
from model.train.checkpoint.writer import Files, LoadedCheckpoint
from model.train.optim.schedule import check_saved_length
from model.train.run.folder import DATA_STATE_FILE, PROGRESS_FILE
from model.train.run.length import TrainingLength
from model.train.train_step import RANDOM_RULE

if TYPE_CHECKING:
    from model.train.trainer import Trainer


def trainer_files(trainer: "Trainer") -> Files:
    """Content by name of the files for a checkpoint of the trainer as it is now.

    Before, the manifests of its data are copied into the run's folder.
    """
    handler = trainer.request_handler
    handler.save_manifests()
    position = trainer.progress.to_json(
        length=asdict(handler.length),
        health=asdict(trainer.health.state),
        random=RANDOM_RULE,
        world_size=trainer.ranks.world_size,
        callbacks={name: callback.state() for name, callback in trainer.callbacks.items()},
    )
    return {
        **trainer.constant_files,
        DATA_STATE_FILE: trainer.data.state(trainer.progress.batch),
        PROGRESS_FILE: position,
    }


def restore_position(trainer: "Trainer", loaded: LoadedCheckpoint) -> dict[str, Any]:
    """Take over the position in schedule and data; returns the rest of trainer.json.

    Raises DataError or ConfigError when the checkpoint belongs to other data or settings.
    """
    restore_steps(trainer.train_step.optimizer)
    trainer.progress, saved = Progress.from_json(loaded.files[PROGRESS_FILE])
    length = TrainingLength.from_dict(saved.get("length"))
    settings, step = trainer.settings, trainer.progress.step
    check_saved_length(settings, trainer.request_handler.length, length, step)
    trainer.data.check_state(loaded.files[DATA_STATE_FILE], trainer.progress.batch)
    trainer.saved_step = loaded.step
    return saved


def restore_callbacks(trainer: "Trainer", saved: Mapping[str, Any], *, rollback: bool) -> None:
    """Give callbacks back what they remember; nothing where trainer.json has nothing of them."""
    states = saved.get("callbacks", {})
    for name, callback in trainer.callbacks.items():
        callback.load_state(states.get(name, {}), rollback=rollback)
