"""Settings that keep Data-Juicer from downloading and installing, wherever its operators run."""

from typing import Any

VARIABLES = {
    "HF_HUB_OFFLINE": "1",
    "UV_OFFLINE": "1",
    "UV_NO_INDEX": "1",
    "PIP_NO_INDEX": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""Environment of such a process; read when libraries are imported."""


PROXY_TOKENIZER = "EleutherAI/pythia-6.9b-deduped"
"""The hub id that alphanumeric_filter has built in; a folder of this name, below the folder of
models, is taken first. Ours is put there."""


def refuse_installs() -> None:
    """Make Data-Juicer fail on a missing package instead of installing it, in this process.

    The environment does not suffice: an offline installer still installs from its cache.
    """
    from data_juicer.utils.lazy_loader import LazyLoader

    def refuse(cls: type, package: str, *args: Any, **kwargs: Any) -> bool:
        raise ImportError(f"{package} is not installed, and nothing is installed at run time")

    LazyLoader._install_package = classmethod(refuse)
