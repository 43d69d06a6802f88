"""A full training step of the 1.12 B model (Table 1): tokens/s, MFU and memory, against peers.

    python -m benchmarks.bench_train [--quick] [--json out.json]

Needs model/ and benchmarks/ alone: torch, transformers; Triton and Liger-Kernel where installed.
A step is forward, backward, clip and AdamW on random tokens at sequence length 2048. Every
measurement has a process of its own, which may take `--limit` seconds; repeats are interleaved
(a b c a b c …) and medians count. The JSON is written anew after every measurement.

    best           our kernels, compiled, whole weights        interpreted   the same, not compiled
    documents      rows of packed documents (512 tokens on average) that do not see each other
    plain          PyTorch alone: nothing fused, all logits, attention without its flash backend
    liger          the same model built from Liger-Kernel and torch's attention; also compiled,
                   and the faster of the two is the peer
    dense, sequence                                            the other routings
    selective, full                                            activations recomputed
    heads of 64    56 filled up with zeros

All at one micro-batch: the paper's 8, or the largest at which `plain` fits. `best` is also tried at
the `--larger` ones, and its fastest counts for MFU. On a CPU the sizes are tiny, marked as such,
and no target is judged.
"""

import argparse
import dataclasses
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks._figures import add_options, end_with_parent, publish, save
from common.errors import ConfigError, SteelError
from model.entry.throughput import measure_in_subprocess
from model.train.distributed.device import device_name
from model.train.throughput.measure import PROFILE_FILE, Result, ThroughputJob
from model.train.throughput.peak_flops import datasheet_peak
from model.train.throughput.variants import (
    OURS,
    PLAIN,
    STEEL_1B,
    TINY,
    TINY_MICRO_BATCH,
    TINY_SEQUENCE,
    Variant,
    liger,
)

DOCUMENT_TOKENS = 512
TITLE = "A full training step"

CANDIDATES: dict[str, Variant] = {
    "best": Variant(compile=True),
    "interpreted": OURS,
    "documents": Variant(compile=True, document_tokens=DOCUMENT_TOKENS),
    "plain": PLAIN,
    "liger": OURS,  # both replaced below, or skipped with the reason
    "liger compiled": OURS,
    "dense": Variant(compile=True, model={"routing": "dense"}),
    "sequence": Variant(compile=True, model={"routing": "sequence"}),
    "selective": Variant(compile=True, activation_checkpointing="selective"),
    "full": Variant(compile=True, activation_checkpointing="full"),
    "heads of 64": Variant(compile=True, model={"pad_head_dim": 64}),
}
QUICK = ("best", "interpreted", "plain", "liger", "liger compiled")


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Model and batches of one benchmark."""

    model: dict[str, Any]
    sequence_length: int
    micro_batches: tuple[int, ...]
    """Tried in this order until `plain` fits; the paper's comes first."""
    larger: tuple[int, ...]
    """Also tried for `best`, until one does not fit."""
    accumulation: int
    """Micro-batches in a step. Section 5: 8."""
    tiny: bool


PAPER_SIZES = Sizes(
    model=STEEL_1B,
    sequence_length=2048,
    micro_batches=(8, 4, 2, 1),
    larger=(16, 32, 64),
    accumulation=8,
    tiny=False,
)
TINY_SIZES = Sizes(
    model=STEEL_1B | TINY,
    sequence_length=TINY_SEQUENCE,
    micro_batches=(TINY_MICRO_BATCH,),
    larger=(2 * TINY_MICRO_BATCH,),
    accumulation=2,
    tiny=True,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and write JSON where `--json` says; 1 when a configuration broke."""
    end_with_parent()
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one repeat of the targets' rows")
    parser.add_argument("--only", metavar="A,B", help=f"some of: {', '.join(CANDIDATES)}")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=5, help="timed steps of a repeat")
    parser.add_argument("--processes", type=int, default=1, help="GPUs that share a step")
    parser.add_argument("--limit", type=float, default=120, help="seconds of a measurement at most")
    parser.add_argument(
        "--larger", metavar="A,B", help="micro-batches to try `best` at, too; `none`: no other"
    )
    parser.add_argument("--profile", type=Path, metavar="DIR", help="write a step's kernels there")
    add_options(parser)
    arguments = parser.parse_args(argv)
    everything = QUICK if arguments.quick else tuple(CANDIDATES)
    names = arguments.only.split(",") if arguments.only else everything
    if unknown := sorted(set(names) - set(CANDIDATES)):
        parser.error(f"--only: there is no {unknown[0]!r}; choose from {', '.join(CANDIDATES)}")
    sizes = PAPER_SIZES if torch.cuda.is_available() else TINY_SIZES
    if arguments.larger:
        larger = () if arguments.larger == "none" else map(int, arguments.larger.split(","))
        sizes = dataclasses.replace(sizes, larger=tuple(larger))
    with tempfile.TemporaryDirectory(prefix="bench-train-") as scratch:
        bench = Bench(
            sizes,
            processes=arguments.processes,
            steps=arguments.steps,
            limit=arguments.limit,
            scratch=Path(scratch),
            profile=arguments.profile,
        )
        report = bench.run(
            names,
            repeats=1 if arguments.quick else arguments.repeats,
            keep=lambda found: save(found, "bench_train", argv, arguments.json),
        )
    publish(report, "bench_train", argv, arguments.json, table=table(report))
    return int(any(row["status"] == "failed" for row in report["rows"]))


class Bench:
    """Runs configurations in processes of their own and keeps what each came to."""

    def __init__(
        self,
        sizes: Sizes,
        *,
        processes: int,
        steps: int,
        scratch: Path,
        limit: float | None = None,
        profile: Path | None = None,
    ) -> None:
        self.sizes, self.processes, self.steps = sizes, processes, steps
        self.scratch, self.limit, self.profile = scratch, limit, profile
        self.count = 0

    def run(
        self,
        names: Sequence[str],
        *,
        repeats: int,
        keep: Callable[[dict[str, Any]], Any] = lambda _: None,
    ) -> dict[str, Any]:
        """Everything, as JSON values; `keep` is given what there is after each measurement."""
        variants, skipped = candidates(names)
        micro_batch_size = self._common_micro_batch(variants)
        measured: dict[tuple[str, int], list[Result]] = {}

        def report() -> dict[str, Any]:
            rows = [row(name, found, size) for (name, size), found in measured.items()]
            return self._report(rows, micro_batch_size, repeats, skipped)

        for repeat in range(repeats):
            for name, variant in variants.items():
                found = measured.setdefault((name, micro_batch_size), [])
                if found and found[-1].status != "done":
                    continue  # it will not fit the second time either
                found.append(self._measure(f"{name} [{repeat + 1}]", variant, micro_batch_size))
                keep(report())
        for size in self.sizes.larger if "best" in variants else ():
            label = f"best, micro-batch {size}"
            found = measured.setdefault((label, size), [])
            for repeat in range(repeats):
                found.append(self._measure(f"{label} [{repeat + 1}]", variants["best"], size))
                keep(report())
            if found[0].status != "done":
                break
        return report()

    def _report(
        self,
        rows: list[dict[str, Any]],
        micro_batch_size: int,
        repeats: int,
        skipped: Mapping[str, str],
    ) -> dict[str, Any]:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return {
            "title": TITLE + (" (tiny, CPU: no target is judged)" if self.sizes.tiny else ""),
            "tiny": self.sizes.tiny,
            "device": device_name(device),
            "num_devices": self.processes,
            "sequence_length": self.sizes.sequence_length,
            "micro_batch_size": micro_batch_size,
            "accumulation": self.sizes.accumulation,
            "repeats": repeats,
            "timed_steps": self.steps,
            "datasheet_peak_flops": datasheet_peak(device),
            "rows": rows,
            "skipped": skipped,
            "targets": targets(rows, judged=not self.sizes.tiny),
        }

    def _common_micro_batch(self, variants: Mapping[str, Variant]) -> int:
        """The first size at which `plain` fits (the first of all where it is not measured)."""
        sizes = self.sizes.micro_batches
        if "plain" not in variants or len(sizes) == 1:
            return sizes[0]
        for size in sizes:
            probe = self._measure(f"plain fits {size}?", variants["plain"], size, steps=1)
            if probe.status != "out of memory":  # what breaks breaks at any size
                return size
        return sizes[-1]

    def _measure(
        self, label: str, variant: Variant, micro_batch_size: int, *, steps: int | None = None
    ) -> Result:
        self.count += 1
        settings = variant.settings(
            self.sizes.model,
            num_processes=self.processes,
            micro_batch_size=micro_batch_size,
            accumulation=self.sizes.accumulation,
            sequence_length=self.sizes.sequence_length,
        )
        job = ThroughputJob(
            settings=settings,
            attention=variant.attention,
            document_tokens=variant.document_tokens,
            warmup_steps=2,
            timed_steps=steps or self.steps,
            profile=self.profile is not None,
            output=str(self.scratch / str(self.count)),
        )
        try:
            result = measure_in_subprocess(job, self.processes, limit=self.limit)
        except SteelError as error:  # it broke: the others are still worth measuring
            result = Result(
                status="failed", reason=str(error)[-2000:], device="", num_devices=self.processes
            )
        text = Path(job.output) / PROFILE_FILE
        if self.profile is not None and text.is_file():
            self.profile.mkdir(parents=True, exist_ok=True)
            shutil.copy(text, self.profile / f"{label.replace(' ', '-')}.txt")
        speed = f"{result.tokens_per_second_per_device:,.0f} tokens/s"
        shown = speed if result.status == "done" else result.status
        print(f"{label}: {shown}", file=sys.stderr, flush=True)
        return result


def candidates(names: Sequence[str]) -> tuple[dict[str, Variant], dict[str, str]]:
    """The configurations asked for, and those that cannot be built, with the reason."""
    chosen = {name: CANDIDATES[name] for name in names}
    skipped = {}
    for name in [name for name in chosen if name.startswith("liger")]:
        try:
            chosen[name] = dataclasses.replace(liger(), compile=name.endswith("compiled"))
        except ConfigError as error:
            skipped[name] = str(error)
            del chosen[name]
    return chosen, skipped


def row(name: str, found: Sequence[Result], micro_batch_size: int) -> dict[str, Any]:
    """Medians over repeats of one configuration."""
    common = {"name": name, "micro_batch_size": micro_batch_size}
    done = [result for result in found if result.status == "done"]
    if len(done) < len(found) or not done:
        worst = next(result for result in found if result.status != "done")
        return common | {"status": worst.status, "reason": worst.reason}

    def median(field: str) -> float | None:
        values = [getattr(result, field) for result in done]
        return None if None in values else statistics.median(values)

    return common | {
        "status": "done",
        "reason": "",
        "tokens_per_second_per_device": median("tokens_per_second_per_device"),
        "by_repeat": [result.tokens_per_second_per_device for result in done],
        "step_seconds": median("step_seconds"),
        "memory_gb": max(result.memory_gb for result in done),
        "memory_reserved_gb": max(result.memory_reserved_gb for result in done),
        "mfu_datasheet": median("mfu_datasheet"),
        "mfu_measured": median("mfu_measured"),
        "measured_peak_flops": median("measured_peak"),
        "parameters": done[0].parameters,
        "flops_per_token": done[0].flops_per_token,
        "kernels": done[0].kernels,
        "attention": done[0].attention,
        "first_loss": done[0].losses[0],
        "last_loss": done[0].losses[-1],
    }


def targets(rows: Sequence[Mapping[str, Any]], *, judged: bool) -> list[dict[str, Any]]:
    """Each target with its value and whether it was met; None where it could not be judged."""
    by_name = {r["name"]: r for r in rows if r["status"] == "done"}
    speed, memory = "tokens_per_second_per_device", "memory_gb"

    def ratio(field: str, ours: str, *theirs: str) -> float | None:
        peers = [by_name[name][field] for name in theirs if name in by_name]
        if ours not in by_name or not peers:
            return None
        return float(by_name[ours][field] / max(peers))

    utilisation = [
        r["mfu_datasheet"]
        for name, r in by_name.items()
        if name.startswith("best") and r["mfu_datasheet"] is not None
    ]
    wanted = [
        ("MFU of the datasheet's peak, best", max(utilisation, default=None), ">=", 0.50),
        ("throughput, best / plain", ratio(speed, "best", "plain"), ">=", 1.6),
        ("memory, best / plain", ratio(memory, "best", "plain"), "<=", 0.6),
        ("throughput, best / liger", ratio(speed, "best", "liger", "liger compiled"), ">=", 1.1),
    ]
    return [
        {
            "target": name,
            "value": value,
            "wanted": f"{sign} {bound}",
            "met": None
            if value is None or not judged
            else value >= bound
            if sign == ">="
            else value <= bound,
        }
        for name, value, sign, bound in wanted
    ]


def table(report: Mapping[str, Any]) -> str:
    """The report for people."""
    lines = [
        f"{report['title']}: {report['num_devices']} x {report['device']}, sequence "
        f"{report['sequence_length']}, {report['accumulation']} micro-batches a step",
        f"{'':26}{'micro':>6}{'tokens/s':>11}{'MFU %':>7}{'of measured %':>15}{'GB':>8}",
    ]
    for r in report["rows"]:
        if r["status"] != "done":
            lines.append(
                f"{r['name']:26}{r['micro_batch_size']:>6}  {r['status']}: "
                f"{_last_line(r['reason'])}"
            )
            continue
        sheet = "" if r["mfu_datasheet"] is None else f"{100 * r['mfu_datasheet']:.1f}"
        lines.append(
            f"{r['name']:26}{r['micro_batch_size']:>6}{r['tokens_per_second_per_device']:>11,.0f}"
            f"{sheet:>7}{100 * r['mfu_measured']:>15.1f}{r['memory_gb']:>8.1f}"
        )
    lines += [f"{name:26} skipped: {reason}" for name, reason in report["skipped"].items()]
    verdicts = {None: "not judged", True: "met", False: "missed"}
    for t in report["targets"]:
        value = "not measured" if t["value"] is None else f"{t['value']:.3f}"
        lines.append(f"{t['target']:40} {value:>13}   wanted {t['wanted']}: {verdicts[t['met']]}")
    return "\n".join(lines)


def _last_line(text: str) -> str:
    return next((line for line in reversed(text.splitlines()) if line.strip()), "")


if __name__ == "__main__":
    sys.exit(main())
