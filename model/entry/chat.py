"""A conversation with a chat model in the terminal: one line in, one answer out.

Prompts come from standard input (a terminal or a pipe) until it ends; `--message` gives one prompt.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import model.modeling_steel as _registers_auto_classes  # noqa: F401
from common.errors import DataError
from model.train.run.folder import MODEL_FOLDER


def find_model_folder(folder: Path) -> Path:
    """Find the Transformers folder at or inside `folder` (a stage keeps it under `model/`)."""
    for candidate in (folder, folder / MODEL_FOLDER):
        if (candidate / "config.json").is_file():
            return candidate
    raise DataError(f"{folder} holds no model: there is no config.json in it or in its model/")


def chat(folder: Path, messages: Iterator[str], *, max_new_tokens: int) -> Iterator[str]:
    """Answer each message, remembering the conversation. Greedy decoding."""
    place = find_model_folder(folder)
    tokenizer = AutoTokenizer.from_pretrained(place)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = AutoModelForCausalLM.from_pretrained(place).to(device).eval()
    dialogue: list[dict[str, str]] = []
    for message in messages:
        dialogue.append({"role": "user", "content": message})
        prompt = tokenizer.apply_chat_template(
            dialogue, add_generation_prompt=True, return_tensors="pt", return_dict=True
        ).to(device)
        with torch.inference_mode():
            output = network.generate(
                **prompt,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                eos_token_id=tokenizer.convert_tokens_to_ids("<|im_end|>"),
                pad_token_id=tokenizer.convert_tokens_to_ids("<|endoftext|>"),
            )
        new = output[0, prompt["input_ids"].shape[1] :]
        answer = str(tokenizer.decode(new, skip_special_tokens=True)).strip()
        dialogue.append({"role": "assistant", "content": answer})
        yield answer
