"""Scores of each checkpoint of a pretraining, while it runs or afterwards: curves by tokens.

RUN/checkpoints/step-… ──held, exported──▶ model ──model.entry.score_checkpoint──▶ scores
                                                                                      │
STORE/checkpoint_scores/<run>/<settings>/   steps/step-…-<digest>.json  ◀─────────────┘
                                            curves.json, curves.png     MLflow, report

run.py       the pretraining, and checkpoints that are held while they are read
texts.py     held-out documents of the packed data, as texts
questions.py what is measured: benchmarks, texts, settings
measure.py   one checkpoint
watch.py     all of them, each once, until the run ends
curves.py    points of the curves, their pictures, MLflow
"""

from tasks.checkpoint_scores.config import CheckpointScoresConfig

__all__ = ["CheckpointScoresConfig"]
