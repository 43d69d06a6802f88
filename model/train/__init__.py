"""Pretraining: one loop for Steel and for any other causal language model of Transformers.

config ──▶ build ──▶ Trainer.fit ──▶ export
            │           ├── run          requests while it runs: appended data, another end
            │           ├── schedule     learning rate of a step, wherever the end moved
            │           ├── optimizer    AdamW, global-norm clip
            │           ├── parallel     process group, FSDP2, one all-reduce a step
            │           ├── checkpoint   written aside, checked, renamed; newest intact one
            │           └── metrics      metrics.jsonl, behind the MetricSink protocol
            └── model_with_loss   next-token loss, without full logits where the model is ours
"""
