"""Commands for trained models, ours and published ones: export, import."""

import argparse
import dataclasses
import json
import re
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import ConfigError, shown
from common.paths import checked
from common.ranges import Steps
from flows.commands import DONE, add_options, number
from flows.commands.chat import MODEL_HELP

if TYPE_CHECKING:
    from model.export.folder import Exported


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare them."""
    export = commands.add_parser(
        "export", help="a model as a folder that others use without this project"
    )
    export.add_argument("model", help=MODEL_HELP)
    export.add_argument(
        "--checkpoint", type=number(Steps), metavar="STEP", help="of a training: this checkpoint"
    )
    export.add_argument("--to", required=True, metavar="FOLDER", help="folder to make")
    export.add_argument(
        "--form",
        choices=("steel", "qwen2", "published", "transformers"),
        help="steel: with its code beside the weights; qwen2: a dense model, for vLLM, SGLang, "
        "llama.cpp and ollama; published: the names of Steel-LLM's release (default: qwen2 for a "
        "dense model, else steel)",
    )
    export.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="of the weights (default: as they are)",
    )
    export.add_argument(
        "--max-shard-size",
        default="5GB",
        metavar="SIZE",
        help="largest file of weights, such as 500MB (default: 5GB)",
    )
    export.add_argument(
        "--license",
        default="",
        metavar="ID",
        help="of the weights, for the model card: an identifier of the hub, such as apache-2.0",
    )
    add_options(export, "store", "json")
    export.set_defaults(run=_export)

    imported = commands.add_parser(
        "import", help="convert a published Steel-LLM checkpoint to this project's format"
    )
    imported.add_argument("source", help="its folder: config.json, safetensors, tokenizer")
    imported.add_argument("output", help="folder to make")
    imported.add_argument(
        "--routing",
        default="reference_norm",
        choices=("reference_norm", "sequence", "token"),
        help="reference_norm (default) computes what was published; the others start training anew "
        "from its weights",
    )
    add_options(imported, "json")
    imported.set_defaults(run=_import)


def _export(arguments: argparse.Namespace) -> int:
    from flows.commands.find_model import find_model

    shard_size(arguments.max_shard_size)
    if arguments.license and not re.fullmatch(r"[a-z0-9][a-z0-9.+-]{0,40}", arguments.license):
        raise ConfigError(
            f"--license {shown(arguments.license)} must be an identifier of the Hugging Face hub, "
            "such as apache-2.0"
        )
    found = find_model(Path(arguments.store), arguments.model, arguments.checkpoint)

    from transformers.utils.logging import disable_progress_bar

    from model.export.folder import export_model

    disable_progress_bar()
    done = export_model(
        found.place,
        checked(arguments.to),
        form=arguments.form,
        dtype=arguments.dtype,
        max_shard=arguments.max_shard_size,
        beside=partial(_cards, Path(arguments.store), found.place, arguments.license),
    )
    if arguments.json:
        print(json.dumps(dataclasses.asdict(done), ensure_ascii=False, indent=1))
        return DONE
    files = "1 file" if done.files == 1 else f"{done.files} files"
    print(
        f"{found.words} exported to {done.output}: {FORMS[done.form]}, "
        f"{done.parameters / 1e6:,.1f} M parameters in {done.dtype}, {files} of weights"
    )
    if done.code:
        print("load it with trust_remote_code=True: its code lies beside the weights")
    if done.remark:
        print(done.remark, file=sys.stderr)
    return DONE


def _cards(store: Path, place: Path, licence: str, done: "Exported") -> dict[str, str]:
    """Cards of an exported model, from the manifests of the stages behind it."""
    from tasks.core.given_model import GivenModel
    from tasks.report.cards import Loading, card_files
    from tasks.report.cards.facts import result_of

    result, final = result_of(place)
    if result is None:
        model = {"stage": "model", "label": place.name, "key": ""}
        result, final = GivenModel(stage="model", key="", folder=place, manifest=model), True
    else:
        store = result.folder.parent.parent  # the one it stands in
    loading = Loading(
        exported=True, code=done.code, licence=licence, checkpoint="" if final else place.name
    )
    return card_files(store, result, loading=loading)


FORMS = {
    "steel": "a Steel model with its code",
    "qwen2": "a plain Qwen2 model",
    "published": "a model under the published names of Steel-LLM",
    "transformers": "a model that Transformers has the code of",
}


def shard_size(text: str) -> None:
    """Refuse what is no size of a file. Raises ConfigError."""
    if not re.fullmatch(r"[1-9][0-9]{0,5}(KB|MB|GB)", text):
        raise ConfigError(
            f"--max-shard-size {shown(text)} must be a whole number with KB, MB or GB, like 500MB"
        )


def _import(arguments: argparse.Namespace) -> int:
    from model.convert import import_published

    done = import_published(
        Path(arguments.source), Path(arguments.output), routing=arguments.routing
    )
    if arguments.json:
        print(json.dumps(dataclasses.asdict(done), indent=1))
        return DONE
    print(
        f"{done.output}: {done.parameters / 1e6:,.1f} M parameters in {done.dtype}, from "
        f"{done.tensors} tensors"
    )
    if not done.exact:
        print(
            f"routing {done.routing} is another function than these weights were trained for: "
            "train on before use",
            file=sys.stderr,
        )
    return DONE
