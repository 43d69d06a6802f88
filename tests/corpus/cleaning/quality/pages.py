"""Made-up pages of two kinds."""

import random

PROSE = (
    "河流从北面的山里流出来经过三个县城最后进入大海两岸的村庄世代以打鱼为生春天水涨船就可以到山脚"
)
SALE = "特价包邮加微信领券下单优惠活动火热招代理正品保证厂家直销批发价格电话咨询欢迎选购"


def page(letters: str, number: int) -> str:
    chance = random.Random(f"{letters}{number}")
    parts = ["".join(chance.choices(letters, k=chance.randint(8, 24))) for _ in range(20)]
    return "，".join(parts) + "。"


PAGES = [(page(PROSE, i), True) for i in range(40)] + [(page(SALE, i), False) for i in range(40)]
