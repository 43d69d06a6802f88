"""Small tokenizers of the kinds that published models have, with their chat templates."""

from collections.abc import Callable, Mapping

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from tests.tiny_chat import SPECIAL, byte_tokenizer

LLAMA_3 = (
    "{{- bos_token }}{%- for message in messages %}"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' "
    "+ message['content'] | trim + '<|eot_id|>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
    "{%- endif %}"
)
"""Llama 3's, without tools."""

MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token }}{% endif %}"
    "{% endfor %}"
)
"""Mistral's; a system turn is left out."""

ROLES = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>'"
    " }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
"""Phi-4-mini's, which builds its control tokens from the roles."""

THINKING = (
    "{%- for message in messages %}{%- set content = message.content %}"
    "{{- '<|im_start|>' + message.role + '\n' }}"
    "{%- if message.role == 'assistant' and '</think>' in content %}"
    "{%- set thought = content.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
    "{{- '<think>\n' + thought + '\n</think>\n\n' + content.split('</think>')[-1].lstrip('\n') }}"
    "{%- else %}{{- content }}{%- endif %}{{- '<|im_end|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
"""Qwen 3's treatment of thoughts."""


def _fast(
    tokenizer: Tokenizer,
    template: str,
    special: tuple[str, ...],
    *,
    plain: tuple[str, ...] = (),
    bos: str | None = None,
) -> PreTrainedTokenizerFast:
    tokenizer.add_special_tokens([AddedToken(text, normalized=False) for text in special])
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in plain])
    if bos:
        tokenizer.post_processor = TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    end = special[-1]
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=bos, eos_token=end)
    fast.chat_template = template
    return fast


def _bytes() -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("<", "|"), ("|", ">"), ("i", "m"), ("n", "d"), ("e", "nd"), ("Ċ", "Ċ"), ("Ġ", "Ġ")]
    vocabulary = [*alphabet, *("".join(pair) for pair in merges)]
    tokenizer = Tokenizer(
        models.BPE(vocab={text: i for i, text in enumerate(vocabulary)}, merges=merges)
    )
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def llama_3() -> PreTrainedTokenizerFast:
    special = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
    return _fast(_bytes(), LLAMA_3, special, bos=special[0])


def roles() -> PreTrainedTokenizerFast:
    return _fast(_bytes(), ROLES, ("<|user|>", "<|assistant|>", "<|system|>", "<|end|>"))


def thinking() -> PreTrainedTokenizerFast:
    plain = ("<think>", "</think>", "    ")
    return _fast(_bytes(), THINKING, ("<|im_start|>", "<|im_end|>"), plain=plain)


def normalizing() -> PreTrainedTokenizerFast:
    """ChatML whose control tokens are looked for in the normalized text, as some files say."""
    tokenizer = _bytes()
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Lowercase(), normalizers.Replace("\u200b", "")]
    )
    added = [AddedToken(text, normalized=True, special=True) for text in SPECIAL]
    tokenizer.add_special_tokens(added)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=SPECIAL[0])
    fast.chat_template = byte_tokenizer().chat_template
    return fast


def llama_2() -> PreTrainedTokenizerFast:
    """SentencePiece's BPE: control tokens in the vocabulary, a space in front, bytes at last."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += [*"▁abcdeghinorstu</>[]|_", "▁h", "s>", "</", "IN", "ST"]
    pieces = list(dict.fromkeys([*pieces, *"INST"]))
    merges = [("▁", "h"), ("s", ">"), ("<", "/"), ("I", "N"), ("S", "T"), ("</", "s>")]
    model = models.BPE(
        vocab={piece: i for i, piece in enumerate(pieces)},
        merges=merges,
        unk_token="<unk>",
        fuse_unk=True,
        byte_fallback=True,
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return _fast(tokenizer, MISTRAL, ("<unk>", "<s>", "</s>"), bos="<s>")


def unigram() -> PreTrainedTokenizerFast:
    """A model whose vocabulary holds the control tokens as pieces that a text may be cut into."""
    pieces = [("<s>", -1.0), ("</s>", -1.0), ("[INST]", -1.0), ("[/INST]", -1.0)]
    pieces += [(f"<0x{byte:02X}>", -9.0) for byte in range(256)]
    pieces += [(text, -2.0) for text in "▁abcdeghinorstu</>[]|_INST"]
    tokenizer = Tokenizer(models.Unigram(list(dict(pieces).items()), 0, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    return _fast(tokenizer, MISTRAL, ("[INST]", "[/INST]", "<s>", "</s>"), bos="<s>")


KINDS: Mapping[str, Callable[[], PreTrainedTokenizerFast]] = {
    "chatml": byte_tokenizer,
    "llama-2": llama_2,
    "llama-3": llama_3,
    "normalizing": normalizing,
    "roles": roles,
    "thinking": thinking,
    "unigram": unigram,
}
