"""The chat template by which conversations are encoded for a training."""

from transformers import PreTrainedTokenizerBase

from common.errors import DataError
from model.tokenizer.conversation import GENERATION


def training_template(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """A template that marks what the assistant says: None where the tokenizer's own does.

    For the templates of well-known models, which mark nothing, TRL has the same with marks: the
    only use of TRL outside the tests. Raises DataError for another one, and where TRL is missing.
    """
    if GENERATION.search(tokenizer.get_chat_template()):
        return None
    try:
        from trl.chat_template_utils import get_training_chat_template  # it imports a lot

        marked: str | None = get_training_chat_template(tokenizer)
    except (ImportError, ValueError) as error:
        raise DataError(
            f"the chat template of {tokenizer.name_or_path} does not mark what the assistant says "
            f"({{% generation %}}), and TRL has none with marks for it ({error}): put "
            "model/tokenizer/chat_template.jinja, or its own with marks, into that folder"
        ) from error
    return marked
