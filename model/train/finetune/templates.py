"""The chat template by which conversations are encoded for a training."""

from transformers import PreTrainedTokenizerBase

from model.tokenizer.conversation import GENERATION


def training_template(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """A template that marks what the assistant says: None where the tokenizer's own does.

    For the templates of well-known models, which mark nothing, TRL has the same with marks. Raises
    ValueError, as TRL does, for another one.
    """
    if GENERATION.search(tokenizer.get_chat_template()):
        return None
    from trl.chat_template_utils import get_training_chat_template  # it imports a lot

    marked: str | None = get_training_chat_template(tokenizer)
    return marked
