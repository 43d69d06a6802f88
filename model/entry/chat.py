"""A conversation with a chat model in the terminal: one line in, one answer out.

Prompts come from standard input (a terminal or a pipe) until it ends; `--message` gives one prompt.
"""

from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

import torch

from common.errors import DataError
from model.load import load_causal_lm
from model.tokenizer.conversation import conversation_encoder
from model.tokenizer.folder import check_model_folder, load_folder_tokenizer
from model.train.run.folder import MODEL_FOLDER


def find_model_folder(folder: Path) -> Path:
    """Find the Transformers folder at or inside `folder` (a stage keeps it under `model/`)."""
    for candidate in (folder, folder / MODEL_FOLDER):
        if (candidate / "config.json").is_file():
            return candidate
    raise DataError(f"{folder} holds no model: there is no config.json in it or in its model/")


def chat(folder: Path, messages: Iterator[str], *, max_new_tokens: int) -> Iterator[str]:
    """Answer each message, remembering the conversation. Greedy decoding.

    What a message spells is text: only the chat template makes control tokens, and the first one
    that the model gives ends its answer. Raises DataError for a folder that is no chat model.
    """
    place = find_model_folder(folder)
    tokenizer = load_folder_tokenizer(place)
    check_model_folder(place, tokenizer)
    if not tokenizer.chat_template:
        raise DataError(
            f"the tokenizer in {place} has no chat template, so it is no chat model: put its "
            "chat_template.jinja there, or fine-tune it first"
        )
    encoder = conversation_encoder(tokenizer)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = load_causal_lm(place, "auto", device).to(device).eval()
    configured = network.generation_config.eos_token_id
    ends = {*encoder.end_ids, *([configured] if isinstance(configured, int) else configured or [])}
    dialogue: list[dict[str, str]] = []
    for message in messages:
        dialogue.append({"role": "user", "content": message})
        ids, _ = encoder.encode(dialogue, add_generation_prompt=True)
        prompt = torch.tensor([ids], device=device)
        with torch.inference_mode():
            output = network.generate(
                input_ids=prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                eos_token_id=sorted(ends),
                pad_token_id=min(ends),
            )
        said = takewhile(lambda id_: id_ not in ends, output[0, len(ids) :].tolist())
        answer = str(tokenizer.decode(list(said))).strip()
        dialogue.append({"role": "assistant", "content": answer})
        yield answer
