"""Made-up pages of two kinds."""

import os
import random
import subprocess
import sys
from pathlib import Path

from corpus.cleaning.quality.model import fasttext_line

PROSE = (
    "河流从北面的山里流出来经过三个县城最后进入大海两岸的村庄世代以打鱼为生春天水涨船就可以到山脚"
)
SALE = "特价包邮加微信领券下单优惠活动火热招代理正品保证厂家直销批发价格电话咨询欢迎选购"


def page(letters: str, number: int) -> str:
    chance = random.Random(f"{letters}{number}")
    parts = ["".join(chance.choices(letters, k=chance.randint(8, 24))) for _ in range(20)]
    return "，".join(parts) + "。"


PAGES = [(page(PROSE, i), True) for i in range(40)] + [(page(SALE, i), False) for i in range(40)]

TRAINING = """
import sys, fasttext
model = fasttext.train_supervised(
    sys.argv[1], dim=8, bucket=100, epoch=1, thread=1, seed=1, verbose=0
)
model.save_model(sys.argv[2])
"""


def fasttext_model(path: Path, good: str, bad: str) -> Path:
    """A fastText model of PAGES with these labels, as Ultra-FineWeb's is: two, and vectors."""
    lines = path.with_suffix(".txt")
    lines.write_text(
        "".join(f"__label__{good if ok else bad} {fasttext_line(text)}\n" for text, ok in PAGES)
    )
    # fastText 0.9.3 begins with whatever is in memory, and fails where that is not a number. glibc
    # fills new memory with the complement of this byte: zeros.
    subprocess.run(
        [sys.executable, "-c", TRAINING, str(lines), str(path)],
        check=True,
        env=os.environ | {"MALLOC_PERTURB_": "255"},
    )
    return path
