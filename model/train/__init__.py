"""Pretraining: one loop for Steel and for any other causal language model of Transformers.

config ──▶ build ──▶ Trainer.fit ──▶ export
            │           ├── train_step    micro-batches to gradients, gradients to an update
            │           ├── health        judgement of each batch before the weights change
            │           ├── optim/        optimizers, learning rate of a step, gradients
            │           ├── run/          requests while it runs: appended data, another end
            │           ├── checkpoint/   written aside, checked, renamed; newest intact one
            │           ├── distributed/  process group, FSDP2, one all-reduce a step
            │           └── callbacks/    what only watches: speed, logs, validation, traces …
            └── build_model   ──▶ loss    next-token loss, without all logits where possible

finetune/ is SFT and DPO on the same loop, throughput/ measures a step without a corpus.
"""
