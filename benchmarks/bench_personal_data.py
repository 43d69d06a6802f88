"""Precision and recall of `mask_personal_data_mapper` on planted numbers, and its speed.

    .venv/bin/python -m benchmarks.bench_personal_data

Each kind is planted 2,000 times in sentences with and without labels; beside it the same number
with a wrong checksum, a digit more or a word before it that makes it something else.
"""

import random
import time

from data_juicer.ops.base_op import OPERATORS

from corpus.cleaning import recipe as recipes
from tests.corpus.cleaning.operators.personal_numbers import identity_checksum, luhn_checksum

COUNT = 2_000
SENTENCES = (
    "{}",
    "联系人张先生 {}，请提前预约。",
    "报名请致电：{}（微信同号）",
    "资料如下：{}\n地址：北京",
)


def digits(draw: random.Random, count: int) -> str:
    """Random digits."""
    return "".join(draw.choices("0123456789", k=count))


def mobile(draw: random.Random) -> tuple[str, list[str]]:
    """A mobile number, and what is none."""
    prefix, rest = draw.choice(("139", "158", "166", "173", "187", "199")), digits(draw, 8)
    number = f"{prefix}{rest}"
    written = draw.choice((number, f"{prefix}-{rest[:4]}-{rest[4:]}", f"+86 {number}"))
    return written, [f"订单号{number}", f"{number}7", f"B{number}", f"{number}元", f"12{rest}0"]


def identity(draw: random.Random) -> tuple[str, list[str]]:
    """An identity number, and what is none."""
    date = f"{draw.randint(1940, 2012)}{draw.randint(1, 12):02}{draw.randint(1, 28):02}"
    region = draw.choice(("110101", "310104", "440305", "510107", "650102"))
    first = region + date + digits(draw, 3)
    last = identity_checksum(first)
    wrong = draw.choice([c for c in "0123456789X" if c != last])
    return first + last, [first + wrong, first + last + "1", f"99{first[2:]}{last}"]


def card(draw: random.Random) -> tuple[str, list[str]]:
    """A bank card's number, and what is none."""
    first = draw.choice(("622202", "621700", "622848", "955880")) + digits(draw, 12)
    last = luhn_checksum(first)
    grouped = " ".join((first + last)[i : i + 4] for i in range(0, 19, 4))
    wrong = str((int(last) + 5) % 10)
    return draw.choice((first + last, grouped)), [first + wrong, f"单号：{first}{last}"]


def wechat(draw: random.Random) -> tuple[str, list[str]]:
    """A labelled WeChat name, and what is none."""
    name = "".join(draw.choices("abcdefghijk", k=4)) + digits(draw, 4)
    label = draw.choice(("微信号：", "微信：", "加微信", "vx：", "V信：", "加V："))
    return label + name, [f"公众号：{name}", f"文件{name}", f"微信公众号：{name}"]


def qq(draw: random.Random) -> tuple[str, list[str]]:
    """A labelled QQ number, and what is none."""
    number = f"{draw.randint(1, 9)}{digits(draw, 8)}"
    return draw.choice(("QQ：", "QQ群：", "扣扣", "加QQ ")) + number, [f"编号{number}", "QQ2013版"]


def email(draw: random.Random) -> tuple[str, list[str]]:
    """An e-mail address, and what is none."""
    name = "".join(draw.choices("abcdefgh", k=6))
    address = f"{name}@{draw.choice(('qq.com', '163.com', 'pku.edu.cn', 'gmail.com'))}"
    others = [f"git@github.com:{name}/a.git", f"{name}@2x.png", f"q@{name}.to(d)", f"@{name}.js"]
    return address, [*others, f"{name}@next.js", f"user@example.com/{name}"]


KINDS = {
    "mobile": mobile,
    "identity": identity,
    "bank_card": card,
    "wechat": wechat,
    "qq": qq,
    "email": email,
}


def main() -> None:
    """Print the table."""
    recipes.load("curated/text").import_custom_operators()
    print(f"{'kind':10} {'planted':>8} {'found':>8} {'others':>8} {'taken':>6}")
    for kind, make in KINDS.items():
        draw = random.Random(7)
        operator = OPERATORS.modules["mask_personal_data_mapper"](kinds=[kind])
        placeholder = operator.placeholders[kind]
        found = others = taken = 0
        for _ in range(COUNT):
            number, near = make(draw)
            found += placeholder in operator.mask(draw.choice(SENTENCES).format(number))
            others += len(near)
            taken += sum(placeholder in operator.mask(f"见 {other} 。") for other in near)
        print(f"{kind:10} {COUNT:8,} {found:8,} {others:8,} {taken:6,}")
    operator = OPERATORS.modules["mask_personal_data_mapper"]()
    draw = random.Random(7)
    prose = "".join(
        f"今天是第{digits(draw, 2)}天，湖边的桃花开了，游人很多。" for _ in range(50_000)
    )
    text = prose + "联系电话：13912345678。"
    began = time.process_time()
    operator.mask(text)
    print(f"prose: {len(text.encode()) / (time.process_time() - began) / 1e6:.0f} MB/s")


if __name__ == "__main__":
    main()
