"""The tokenizer of a pretraining: that of its packed data, and of the model that it starts from."""

from pathlib import Path

from transformers import PreTrainedTokenizerBase

from common.errors import DataError
from model.tokenizer.digest import digest_tokenizer
from model.tokenizer.folder import check_model_folder, check_same, load_folder_tokenizer
from model.train.config import PretrainSettings
from model.train.model_settings import check_folder


def training_tokenizer(
    settings: PretrainSettings, packed: Path, packed_with: str
) -> PreTrainedTokenizerBase:
    """Load the tokenizer of packed data and compare it with all that it must be equal to.

    packed: folder of the stage `pack`. packed_with: digest in the manifest of its shards.

    Raises:
        DataError: the shards were packed with another one, or the model that the run starts from
            has another one, or none.
    """
    folder = packed / "tokenizer"
    tokenizer = load_folder_tokenizer(folder)
    found = digest_tokenizer(tokenizer).digest
    if found != packed_with:
        raise DataError(
            f"the shards in {packed / 'shards'} were packed with the tokenizer {packed_with[:12]}, "
            f"but the one in {folder} is {found[:12]}: put its files back, or pack the data again"
        )
    if isinstance(settings.model, str):
        check_start(Path(settings.model), tokenizer, str(folder))
    return tokenizer


def check_start(model: Path, packed: PreTrainedTokenizerBase, place: str) -> None:
    """Refuse to train a model on data that were packed with another tokenizer than its own.

    model: its folder. packed, place: tokenizer of the data, and its folder or name. Raises
    DataError that says how they differ, and the remedy.
    """
    check_folder(model)
    own = load_folder_tokenizer(model)
    check_model_folder(model, own)
    try:
        check_same(own, f"the model {model}", packed, f"the packed data ({place})")
    except DataError as error:
        raise DataError(
            f"pretrain: {error}. Pack the data again with the model's own "
            f"(pack.tokenizer: {model}, pack.prune: false), or start from a model of the data's"
        ) from error
