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
    fp8            `best` with products of linear layers in 8 bits
    heads of 64    56 filled up with zeros
    merged         `best` with products that share an operand merged; also each of them alone
    loss of 8      `best` with a loss kernel of 8 logits a lane instead of 16

All at one micro-batch: the paper's 8, or the largest at which `plain` fits, with `best` beside it
then. `best` and `merged` are also tried at the `--larger` ones, and the fastest of `best` counts
for MFU, which takes each row for one document. What is not the default yet is compared with `best`;
where it wins, the line for a configuration is printed. On a CPU the sizes are tiny, marked as such,
and nothing is judged.
"""

import argparse
import dataclasses
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks._figures import add_options, end_with_parent, publish, save
from benchmarks._targets import targets
from benchmarks._training_rows import (
    AT_LARGER,
    CANDIDATES,
    CHALLENGERS,
    GAIN,
    PAPER_SIZES,
    QUICK,
    TINY_SIZES,
    Sizes,
)
from common.errors import ConfigError, SteelError
from model.entry.throughput import measure_in_subprocess
from model.train.distributed.device import device_name
from model.train.throughput.measure import PROFILE_FILE, Result, ThroughputJob
from model.train.throughput.peak_flops import datasheet_peak
from model.train.throughput.variants import Variant, liger

TITLE = "A full training step"


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
        largest, *_ = self.sizes.micro_batches
        micro_batch_size = self._common_micro_batch(variants)
        if micro_batch_size < largest:  # nothing else has measured what the others are put beside
            variants = {"best": CANDIDATES["best"], **variants}
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
        fitting = [name for name in AT_LARGER if name in variants]
        for size in self._larger_than(micro_batch_size):
            at_size: dict[str, list[Result]] = {}
            for repeat in range(repeats):
                for name in fitting:
                    label = f"{name}, micro-batch {size}"
                    found = at_size[name] = measured.setdefault((label, size), [])
                    if found and found[-1].status != "done":
                        continue
                    found.append(self._measure(f"{label} [{repeat + 1}]", variants[name], size))
                    keep(report())
            fitting = [name for name in fitting if at_size[name][0].status == "done"]
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
            "choices": choices(rows, judged=not self.sizes.tiny),
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

    def _larger_than(self, common: int) -> list[int]:
        """Micro-batches to try besides, smallest first; also where `plain` does not fit."""
        before = [size for size in self.sizes.micro_batches if size > common]
        return sorted({*before, *self.sizes.larger}) if self.sizes.larger else []

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


def choices(rows: Sequence[Mapping[str, Any]], *, judged: bool) -> list[dict[str, Any]]:
    """Each row that may become the default, beside `best` at its micro-batch: times its speed, and
    whether that is worth it (None where it is not judged)."""
    speeds = {r["name"]: r["tokens_per_second_per_device"] for r in rows if r["status"] == "done"}
    found = []
    for name, speed in speeds.items():
        row, _, size = name.partition(", micro-batch ")
        if row == "best" and size:
            peer, setting = "best", f"pretrain.micro_batch_size: {size}"
        elif row in CHALLENGERS:
            peer, setting = name.replace(row, "best", 1), CHALLENGERS[row]
        else:
            continue
        if peer in speeds:
            ratio = speed / speeds[peer]
            wins = ratio >= GAIN if judged else None
            found.append({"row": name, "setting": setting, "times_best": ratio, "wins": wins})
    return found


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
    verdicts = {None: "not judged", True: "take", False: "leave"}
    for c in report.get("choices", ()):
        times = f"{c['times_best']:.3f} x best"
        lines.append(f"{c['row']:40} {times:>13}   {verdicts[c['wins']]} {c['setting']}")
    return "\n".join(lines)


def _last_line(text: str) -> str:
    return next((line for line in reversed(text.splitlines()) if line.strip()), "")


if __name__ == "__main__":
    sys.exit(main())
