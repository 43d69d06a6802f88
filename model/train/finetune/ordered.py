"""TRL's trainers with Steel's order of samples, and with exact means over a step.

    SampleOrder ──rank's micro-batches──▶ DataLoader ──▶ TRL's trainer ──▶ loss
                                                            checked: finite, of at least one target

Transformers' own samplers draw from torch's generator, whose state at the begin of an epoch is in
no checkpoint, and fill the last batch of an epoch up with rows that were seen already.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from common.errors import DataError, StageError
from model.train.finetune.order import FILLER, SampleOrder


class _Rows(Dataset[Mapping[str, Any]]):
    """Rows by number; FILLER is a short row without a target."""

    def __init__(self, rows: Any, filler: Mapping[str, Any]) -> None:
        self.rows, self.filler = rows, filler

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> Mapping[str, Any]:
        return self.filler if number == FILLER else self.rows[number]


class _EpochOfRank(Sampler[list[int]]):
    """Micro-batches of a rank in the epoch that its trainer's step is in."""

    def __init__(self, trainer: "OrderedTraining") -> None:
        self.trainer = trainer

    def __len__(self) -> int:
        return self.trainer.order.num_batches(self.trainer.accelerator.num_processes)

    def __iter__(self) -> Iterator[list[int]]:
        order, accelerator = self.trainer.order, self.trainer.accelerator
        # Resumed within an epoch, the trainer skips the micro-batches of the steps made before.
        epoch = self.trainer.state.global_step // order.steps_in_epoch
        yield from order.micro_batches(epoch, accelerator.process_index, accelerator.num_processes)


class OrderedTraining:
    """First base of a TRL trainer that trains on prepared rows in the order of a SampleOrder."""

    order: SampleOrder
    """Set before training."""

    # Of the trainer that this is mixed into.
    accelerator: Any
    args: Any
    data_collator: Any
    state: Any
    train_dataset: Any

    def filler(self) -> Mapping[str, Any]:
        """Return a row without a target, of the columns of the others."""
        raise NotImplementedError

    def use(self, order: SampleOrder) -> None:
        """Train in this order. Raises DataError when the trainer has other rows."""
        if len(self.train_dataset) != order.num_samples:
            raise DataError(
                f"TRL trains on {len(self.train_dataset)} rows of {order.num_samples} that it was "
                "given; the installed version drops rows, which Steel does not report. Install "
                "the version in requirements.lock"
            )
        self.order = order

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        """Leave the rows as they are: they are encoded, cut and chosen already."""
        return dataset

    def get_train_dataloader(self) -> DataLoader[Mapping[str, Any]]:
        """This rank's micro-batches of an epoch."""
        return DataLoader(
            _Rows(self.train_dataset, self.filler()),
            batch_sampler=_EpochOfRank(self),
            collate_fn=self.data_collator,
            pin_memory=self.args.dataloader_pin_memory,
            # Its own, so that none of the numbers that dropout draws are taken.
            generator=torch.Generator(),
        )

    def get_batch_samples(
        self, epoch_iterator: Any, num_batches: int, device: Any
    ) -> tuple[list[Any], Any]:
        """A step's micro-batches, and the number of targets in them on all ranks.

        Raises StageError when there is none: its loss would be reported as 0.
        """
        batches, targets = super().get_batch_samples(  # type: ignore[misc]
            epoch_iterator, num_batches, device
        )
        if batches and targets is not None and not int(targets):
            raise StageError(
                f"step {self.state.global_step + 1} has no target in any of its rows; nothing was "
                "trained on it. Look at left_out.jsonl, and raise max_length"
            )
        return batches, targets
