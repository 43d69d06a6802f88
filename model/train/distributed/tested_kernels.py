"""Kernels that passed their self-test on every machine of a run; the others are replaced on all.

    first rank of each machine ──▶ child: model/kernels/self_test.py, on each kind of its GPUs
            │    died, hangs, differs, raises: that operation fails, and a new child tests the rest
            ▼
    gathered over ranks ──▶ every rank: replace_failing(all that failed anywhere)   before its model
                                                                                    is built
A child, because a kernel may end its process or spoil its CUDA context; of a rank and not before
the ranks, because they can tell each other; on all ranks alike, so that shards of one model are
computed in one way.
"""

import dataclasses
import json
import logging
import signal
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from common.child import Child, python
from common.files import write_json
from model.config import SteelConfig
from model.kernels import replace_failing, replacements, resolve
from model.kernels.self_test import ODD, SelfTestJob, Widths, needs_test
from model.train.distributed.context import DistributedContext
from model.train.distributed.device import device_name

log = logging.getLogger(__name__)

LIMIT_SECONDS = 180.0
"""Seconds without news after which a child counts as hanging. An operation takes one; ten when its
kernels are compiled first, on a busy machine more."""

START_SECONDS = 600.0
"""Seconds for a child to import torch and to open the device, which is no kernel's doing."""

POLL_SECONDS = 0.05


@dataclass(kw_only=True)
class Verdict:
    """Findings of a machine's self-tests."""

    failing: dict[str, str] = field(default_factory=dict)
    """Operation -> reason, in words; with the kind of device."""
    untested: str = ""
    """Reason why some could not be tested; empty when all were."""


def check_kernels(
    config: Any,
    ranks: DistributedContext,
    dtype: torch.dtype,
    *,
    merged: Sequence[str] = (),
    self_test: bool = True,
    limit: float = LIMIT_SECONDS,
) -> None:
    """Test the kernels that a model will use, and replace those that fail, on all ranks alike.

    To be called by all ranks, before the model is built. Where no kernel is chosen it does nothing.

    Args:
        config: the model's Transformers config; another one than ours uses the loss alone.
        ranks: this rank among all.
        dtype: of the forward and backward pass.
        merged: merged products of the model.
        self_test: whether to test at all; if not, each is used as it was chosen.
        limit: seconds without news of a test after which it counts as hanging.
    """
    replace_failing({})
    chosen = kernels_of(config, cuda=ranks.device.type == "cuda")
    to_test = needs_test(chosen)
    if not self_test:
        return
    began = time.monotonic()
    mine = Verdict()
    if to_test and ranks.rank % ranks.ranks_per_node == 0:
        for device in device_kinds(ranks):
            verdict = judge(to_test, device, dtype, widths_of(config), limit, merged)
            mine.failing.update(verdict.failing)
            mine.untested = mine.untested or verdict.untested
    # Also where nothing is tested: a machine may lack what another one has.
    verdicts: list[Verdict] = ranks.gather(mine)
    failing = {name: reason for verdict in verdicts for name, reason in verdict.failing.items()}
    untested = next((verdict.untested for verdict in verdicts if verdict.untested), "")
    replace_failing({(name, chosen[name]): reason for name, reason in failing.items()})
    if ranks.is_main and to_test:
        _report(to_test, untested, time.monotonic() - began)


def kernels_of(config: Any, *, cuda: bool) -> dict[str, str]:
    """Implementation of each fused operation that a model uses, by the choice in its config."""
    if config.model_type != SteelConfig.model_type:
        return {"cross_entropy": resolve("auto", cuda=cuda)["cross_entropy"]}
    found = resolve(config.kernels, cuda=cuda)
    if config.routing not in ("token", "uniform"):  # others combine by torch's own operations
        del found["soft_moe"]
    return found


def widths_of(config: Any) -> Widths:
    """Sizes of a model that decide about its kernels."""
    if config.model_type != SteelConfig.model_type:
        return dataclasses.replace(ODD, vocabulary=config.get_text_config().vocab_size)
    return Widths(
        hidden=config.hidden_size,
        heads=config.num_attention_heads,
        key_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        experts=config.num_experts,
        inner=config.expert_intermediate_size,
        slots=config.num_experts * config.slots_per_expert,
        vocabulary=config.vocab_size,
    )


def device_kinds(ranks: DistributedContext) -> list[torch.device]:
    """One device of each kind that this machine's ranks compute on."""
    if ranks.device.type != "cuda":
        return [ranks.device]
    kinds: dict[Any, torch.device] = {}
    for number in range(min(ranks.ranks_per_node, torch.cuda.device_count())):
        properties = torch.cuda.get_device_properties(number)
        kind = (properties.name, properties.major, properties.minor)
        kinds.setdefault(kind, torch.device("cuda", number))
    return list(kinds.values())


def judge(
    implementations: Mapping[str, str],
    device: torch.device,
    dtype: torch.dtype,
    widths: Widths,
    limit: float,
    merged: Sequence[str] = (),
) -> Verdict:
    """Test implementations on one device, in as many children as it takes."""
    verdict, left = Verdict(), dict(implementations)
    with tempfile.TemporaryDirectory(prefix="steel-self-test-") as folder:
        while left:
            path = Path(folder) / f"test-{len(left)}.json"
            results = path.with_suffix(".jsonl")
            job = SelfTestJob(
                implementations=left,
                device=str(device),
                dtype=str(dtype).removeprefix("torch."),
                widths=widths,
                merged=list(merged),
                results=str(results),
            )
            write_json(path, dataclasses.asdict(job))
            with Child(python("model.kernels.self_test", path), path, grace=0.0) as child:
                end = _wait(child, results, limit)
            lines = _read(results)
            last = lines[-1] if lines else {"state": "nothing"}
            if last["state"] == "begun" and end.blames_kernel:
                last = {**last, "state": "failed", "reason": end.words}
            if last["state"] == "failed":
                verdict.failing[last["operation"]] = f"{last['reason']}, on {device_name(device)}"
            elif last["state"] != "passed":
                verdict.untested = f"the test {end.words}"
                return verdict
            tested = {line.get("operation") for line in lines if line["state"] != "begun"}
            left = {
                operation: name
                for operation, name in left.items()
                if operation not in tested and operation not in verdict.failing
            }
    return verdict


class _End(NamedTuple):
    """End of a child."""

    words: str
    """As the rest of a sentence about it."""
    blames_kernel: bool
    """False where memory ran out, which others have: that says nothing about a kernel."""


def _wait(child: Child, results: Path, limit: float) -> _End:
    """Wait for a child to end, or for `limit` seconds without news."""
    size, heard = -1, time.monotonic()
    while (code := child.poll()) is None:
        now = results.stat().st_size if results.exists() else 0
        if now != size:
            size, heard = now, time.monotonic()
        allowed = limit if size > 0 else START_SECONDS
        if time.monotonic() - heard > allowed:
            return _End(f"gave no result within {allowed:g} s", True)
        time.sleep(POLL_SECONDS)
    if code < 0:
        name = signal.Signals(-code).name
        return _End(f"ended its process by {name}", code != -signal.SIGKILL)
    tail = child.tail()
    said = "".join(f" ({line.strip()[:300]})" for line in tail.splitlines()[-1:])
    # So say torch's allocator, CUDA and Triton's loader, not all of them in the last line.
    return _End(f"ended with exit code {code}{said}", "out of memory" not in tail)


def _read(results: Path) -> list[dict[str, str]]:
    """Lines of a file of results, the last of which a child may have left unfinished."""
    try:
        text = results.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text.split("\n")[:-1]]


def _report(tested: Mapping[str, str], untested: str, seconds: float) -> None:
    names = ", ".join(f"{operation} ({name})" for operation, name in tested.items())
    log.info("kernels tested in %.1f s: %s", seconds, names)
    for operation, what in replacements().items():
        log.warning(
            "kernels: %s failed its self-test and is replaced on all ranks, %s. Slower, and right; "
            "report it with this line",
            operation,
            what,
        )
    if untested:
        log.warning(
            "kernels: not all could be tested (%s); those are used as they were chosen. "
            "kernels.self_test: false tests none, model.kernels: eager needs no test",
            untested,
        )
