"""GPUs by name: peak, memory, power, and what an hour of one costs.

Peak and power are the makers' (`source`); memory is what the driver reports, in GiB. Prices are a
range of public offers for one GPU and hour, in US dollars, as one page listed them on one day
(`price_source`): they change by the month and by the contract, so give your own where it matters.
"""

import re
from dataclasses import dataclass

from common.config import did_you_mean
from common.errors import ConfigError, shown

DATASHEETS = "https://www.nvidia.com/en-us/data-center/"
ADA = "https://images.nvidia.com/aem-dam/Solutions/geforce/ada/nvidia-ada-gpu-architecture.pdf"
BLACKWELL = "https://images.nvidia.com/aem-dam/Solutions/geforce/blackwell/nvidia-rtx-blackwell-gpu-architecture.pdf"
ASCEND = "https://ai.gitee.com/docs/compute/clusters_gpu/ascend_gpu"
SPREAD = "https://www.mercatus-ai.com/blog/cloud-gpu-pricing (May 2026: cheapest to dearest)"
RUNPOD = "https://deploybase.ai/articles/runpod-gpu-pricing (March 2026: spot to on demand)"
CHINA = "https://www.zhitaoyun.cn/2153110.html (April 2025: 8 to 12 yuan, at 7.2 a dollar)"


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One kind of accelerator."""

    name: str
    """Part of the name by which its driver knows it."""
    flops: float
    """Dense bf16 peak with fp32 accumulation, FLOP/s, without sparsity."""
    memory_gib: float
    """Memory, GiB."""
    watts: float
    """Largest power draw of one."""
    source: str
    """Place of these figures."""
    price: tuple[float, float] | None = None
    """Cheapest and dearest hour of one that `price_source` lists, US dollars; None: none found."""
    price_source: str = ""
    """Place and date of the prices."""
    runs_steel: bool = True
    """False for accelerators that Steel has no kernels for and was never run on."""


GPUS = (
    Gpu(name="B300", flops=2250e12, memory_gib=268, watts=1400, source=DATASHEETS + "dgx-b300/"),
    Gpu(
        name="B200",
        flops=2250e12,
        memory_gib=179,
        watts=1000,
        source=DATASHEETS + "dgx-b200/",
        price=(5.98, 10.57),
        price_source=RUNPOD,
    ),
    Gpu(
        name="GB200", flops=2500e12, memory_gib=185, watts=1200, source=DATASHEETS + "gb200-nvl72/"
    ),
    Gpu(name="H200 NVL", flops=835e12, memory_gib=140, watts=600, source=DATASHEETS + "h200/"),
    Gpu(
        name="H200",
        flops=989e12,
        memory_gib=140,
        watts=700,
        source=DATASHEETS + "h200/",
        price=(2.50, 7.00),
        price_source=SPREAD,
    ),
    Gpu(name="GH200", flops=989e12, memory_gib=95, watts=1000, source=DATASHEETS + "gh200/"),
    Gpu(
        name="H100 PCIe",
        flops=756e12,
        memory_gib=80,
        watts=350,
        source=DATASHEETS + "h100/",
        price=(1.99, 3.51),
        price_source=RUNPOD,
    ),
    Gpu(name="H100 NVL", flops=835e12, memory_gib=94, watts=400, source=DATASHEETS + "h100/"),
    Gpu(
        name="H100",
        flops=989e12,
        memory_gib=80,
        watts=700,
        source=DATASHEETS + "h100/",
        price=(1.99, 5.00),
        price_source=SPREAD,
    ),
    Gpu(name="H800 PCIe", flops=756e12, memory_gib=80, watts=350, source=DATASHEETS + "h100/"),
    Gpu(name="H800", flops=989e12, memory_gib=80, watts=700, source=DATASHEETS + "h100/"),
    Gpu(name="H20", flops=148e12, memory_gib=96, watts=400, source=DATASHEETS + "h100/"),
    Gpu(
        name="A100",
        flops=312e12,
        memory_gib=80,
        watts=400,
        source=DATASHEETS + "a100/",
        price=(0.80, 3.00),
        price_source=SPREAD,
    ),
    Gpu(
        name="A800",
        flops=312e12,
        memory_gib=80,
        watts=400,
        source=DATASHEETS + "a100/",
        price=(1.10, 1.70),
        price_source=CHINA,
    ),
    Gpu(
        name="L40S",
        flops=362e12,
        memory_gib=45,
        watts=350,
        source=DATASHEETS + "l40s/",
        price=(0.79, 1.40),
        price_source=RUNPOD,
    ),
    Gpu(
        name="RTX 5090",
        flops=209.5e12,
        memory_gib=31.8,
        watts=575,
        source=BLACKWELL,
        price=(0.69, 1.22),
        price_source=RUNPOD,
    ),
    Gpu(
        name="RTX 4090",
        flops=165e12,
        memory_gib=24,
        watts=450,
        source=ADA,
        price=(0.34, 0.60),
        price_source=RUNPOD,
    ),
    Gpu(
        name="Ascend 910B", flops=280e12, memory_gib=64, watts=310, source=ASCEND, runs_steel=False
    ),
)
"""Of two names that fit, the longer one counts."""


def gpu_of_driver(name: str) -> Gpu | None:
    """The GPU that a driver's name names; None for one that is not in the table.

    An `RTX A1000` is no A100, and of a laptop's or a `D` version the figures are others.
    """
    if re.search(r"\b(Laptop|D|Max-Q)\b", name):
        return None
    fitting = [gpu for gpu in GPUS if re.search(rf"\b{re.escape(gpu.name)}(?!\d)", name)]
    return max(fitting, key=lambda gpu: len(gpu.name)) if fitting else None


def gpu_of_word(word: str) -> Gpu:
    """The GPU that somebody means by `h100`, `4090` or `A100`. Raises ConfigError."""
    by_word = {_letters(gpu.name): gpu for gpu in GPUS}
    by_word |= {_letters(gpu.name.split(" ", 1)[1]): gpu for gpu in GPUS if gpu.name[:3] == "RTX"}
    by_word["910b"] = by_word["ascend910b"]
    if (found := by_word.get(_letters(word))) is not None:
        return found
    words = sorted(by_word)
    raise ConfigError(
        f"there is no GPU {shown(word)} in the table{did_you_mean(_letters(word), words)}: choose "
        f"from {', '.join(words)}"
    )


def _letters(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())
