"""The new part of the corpora of a training: what `steel refresh` cleans and appends.

    acquired now ─▶ new_files ─▶ normalize ─▶ new_documents ─▶ clean ─▶ new_texts ─▶ pack ─▶ append
                        ▲                           ▲                       ▲
                 acquired before           texts before cleaning    texts kept, and held out
                 └────── of the stages that the training's data came from ──────┘

Each is a stage: what an interrupted refresh has finished is not made again. docs/adr/0070
"""

from tasks.refresh.lineage import Lineage, lineage_of
from tasks.refresh.stages import (
    NewDocumentsConfig,
    NewFilesConfig,
    NewTextsConfig,
    new_documents,
    new_files,
    new_texts,
)

__all__ = [
    "Lineage",
    "NewDocumentsConfig",
    "NewFilesConfig",
    "NewTextsConfig",
    "lineage_of",
    "new_documents",
    "new_files",
    "new_texts",
]
