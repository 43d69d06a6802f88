"""Personal data: what people own is masked, what only looks like it stays."""

import random
import re
from typing import Any

import pytest
from data_juicer.ops.base_op import OPERATORS
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus.cleaning import recipe as recipes
from tests.corpus.cleaning.operators.personal_numbers import (
    CARDS,
    HANDLES,
    IDENTITIES,
    MOBILES,
    luhn_checksum,
)


@pytest.fixture(scope="module")
def mask() -> Any:
    """mask(text) -> text, with all kinds and their own placeholders."""
    recipes.load("curated/text").import_custom_operators()
    return OPERATORS.modules["mask_personal_data_mapper"]().mask


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("手机13912345678。", "手机<手机号>。"),
        ("Tel:+86 139-1234-5678", "Tel:<手机号>"),
        ("13912345678/13812345679（微信同号）", "<手机号>/<手机号>（微信同号）"),
        ("订单号 13912345678，电话 13912345678", "订单号 13912345678，电话 <手机号>"),
        ("订单电话13912345678", "订单电话<手机号>"),
        ("**13912345678**", "**<手机号>**"),
        ("微信/电话：13912345678", "微信/电话：<手机号>"),
        ("身份证号11010119900307299X", "身份证号<身份证号>"),
        ("身份证：110101 19900307 299x", "身份证：<身份证号>"),
        ("旧身份证号码 110101900307123", "旧身份证号码 <身份证号>"),
        ("卡号：6222 0200 0000 0000 125，户名", "卡号：<银行卡号>，户名"),
        ("微信号：sxfx114", "微信号：<微信号>"),
        ("添加微信hzxjy99（备注）", "添加微信<微信号>（备注）"),
        ("vx:****wg114923697**", "vx:****<微信号>**"),
        ("加V：abc12345 领取", "加V：<微信号> 领取"),
        ("微信号（含商务合作）：sqdzry", "微信号（含商务合作）：<微信号>"),
        ("咨询QQ：3003383379）", "咨询QQ：<QQ号>）"),
        ("考研QQ群：926525970，", "考研QQ群：<QQ号>，"),
        ("扣扣 123456789", "扣扣 <QQ号>"),
        ("邮箱:abc.d-e@qq.com。联系x@a.edu.cn处", "邮箱:<邮箱>。联系<邮箱>处"),
        ("张三 <zhang@qq.com> 写道", "张三 <邮箱> 写道"),
        ("发到abc@163.com：请注明", "发到<邮箱>：请注明"),
        ("服务器 180.106.80.10 已停", "服务器 <IP地址> 已停"),
    ],
)
def test_personal_data_is_masked(before: str, after: str, mask: Any) -> None:
    assert mask(before) == after


STAY = [
    "订单号 13912345678901",
    "订单号：13912345678",
    "手机订单号 13912345678",
    "流水编号 13912345678 已处理",
    "客服热线 400-820-8820，800-810-8888，10086，95588",
    "中国移动短信中心 13800138000",
    "计算 13912345678 + 1 的值",
    "共 13912345678 元",
    "13912345678.5",
    "SN13912345678",
    "约 13912345678 次",
    "0.13912345678",
    "12912345678",
    "139 1234 5678 9012 3456",
    "时间戳 1639123456789",
    "圆周率 3.14159265358979323846",
    "2^64 = 18446744073709551616",
    "ISBN 9787302423287",
    "身份证号110101199003072990",
    "110101199013072999",
    "990101199003072998",
    "卡号6222020000000000126",
    "订单 6222020000000000125",
    "统一社会信用代码 91110105MA01ABCD1X",
    "微信公众号：Guide-NYC",
    "关注公众号（ID：open163）",
    "微信支付了8200元",
    "微信 iPhone12 版",
    "微信：https://weixin.qq.com/x",
    'wx:for="{{items}}" wx:key="index"',
    "QQ2013 和 QQ 8.9.1 版",
    "QQ：10000万用户",
    "内置QQ，MSN，MySpace",
    "\\qquad 12345678",
    "git clone git@github.com:a/b.git",
    "ssh://git@host.com/a.git",
    "icon@2x.png 与 logo@3x.jpg",
    "y = q@k.to(d) + a@b.mm[0] + W@x.us[0]",
    "react@next.js，@vue/cli@4.5，lodash@4.17.21",
    "@app.route('/') 和 @Override",
    "@张三 @huskyfuntimes 转发",
    "user@example.com",
    "https://user:pw@host.com/x",
    "scp a.txt root@host.com:/tmp",
    "2A @120VAC,1A @240 VAC",
    "192.168.1.100 255.255.255.0 127.0.0.1 10.100.1.1 8.8.8.8",
    "网段 180.106.80.0/24",
    "版本 101.2.3.4，见 3.1.4.1 节",
    "主机 202.114.18.10 的子网掩码是 255.255.255.252，广播地址是 202.114.18.11",
    "you@gmail.com，jane@example2.com",
    "`13912345678` 与 `a@qq.com`",
    "```\nphone = '13912345678'\nmail = 'a@qq.com'\n```",
]


@pytest.mark.parametrize("text", STAY)
def test_what_only_looks_like_it_stays(text: str, mask: Any) -> None:
    assert mask(text) == text


BEFORE = st.sampled_from(
    ["", "电话：", "联系人王先生 ", "拨打", "（", "手机/微信 ", "老板给我的名片是"]
)
BEHIND = st.sampled_from(["", "。", "，谢谢", "（微信同号）", " 王先生", "\n地址：北京", "）"])


@settings(max_examples=150)
@given(before=BEFORE, mobile=MOBILES, behind=BEHIND)
def test_every_mobile_number_is_masked(before: str, mobile: str, behind: str, mask: Any) -> None:
    if re.sub(r"\D", "", mobile)[-11:] not in ("13800138000", "13010112500"):
        assert mask(before + mobile + behind) == f"{before}<手机号>{behind}"


@settings(max_examples=150)
@given(
    mobile=MOBILES.filter(str.isdigit),
    change=st.sampled_from(["{}5", "3{}", "A{}", "{}b", "{}.5", "0.{}", "{}元", "{} + 1", "{}_x"]),
)
def test_a_mobile_number_within_something_stays(mobile: str, change: str, mask: Any) -> None:
    text = "数据是 " + change.format(mobile)
    assert mask(text) == text


@settings(max_examples=150)
@given(before=BEFORE, number=IDENTITIES, behind=BEHIND)
def test_every_identity_number_is_masked(before: str, number: str, behind: str, mask: Any) -> None:
    assert mask(before + number + behind) == f"{before}<身份证号>{behind}"


@settings(max_examples=150)
@given(number=IDENTITIES, place=st.integers(0, 17), other=st.sampled_from("0123456789"))
def test_an_identity_number_with_another_digit_is_none(
    number: str, place: int, other: str, mask: Any
) -> None:
    """One changed digit never passes ISO 7064 MOD 11-2."""
    if number[place] != other:
        changed = number[:place] + other + number[place + 1 :]
        assert "<身份证号>" not in mask(f"编号 {changed} 的")


@settings(max_examples=150)
@given(number=CARDS, label=st.sampled_from(["卡号：", "工行卡", "打款到银行账户 ", ""]))
def test_every_card_is_masked(number: str, label: str, mask: Any) -> None:
    assert mask(f"{label}{number}，户名") == f"{label}<银行卡号>，户名"
    four = " ".join(number[i : i + 4] for i in range(0, len(number), 4))
    assert mask(f"{label}{four}，户名") == f"{label}<银行卡号>，户名"


@settings(max_examples=150)
@given(number=CARDS, off=st.integers(1, 9))
def test_a_number_that_fails_luhn_is_no_card(number: str, off: int, mask: Any) -> None:
    wrong = number[:-1] + str((int(luhn_checksum(number[:-1])) + off) % 10)
    assert mask(f"卡号 {wrong}") == f"卡号 {wrong}"


@settings(max_examples=100)
@given(
    label=st.sampled_from(["微信号：", "微信:", "加微信", "vx：", "V信：", "+v：", "薇信："]),
    handle=HANDLES.filter(lambda handle: 6 <= len(handle) <= 20),
)
def test_every_labelled_handle_is_masked(label: str, handle: str, mask: Any) -> None:
    assert mask(f"请{label}{handle}，备注姓名") == f"请{label}<微信号>，备注姓名"


WORDS = ["微信：", "QQ", "a@qq.com", "\n", "`", "，"]
PIECES = st.lists(
    st.one_of(MOBILES, IDENTITIES, CARDS, HANDLES, st.sampled_from([*STAY, *WORDS])), max_size=8
).map("，".join)


@settings(max_examples=40)
@given(text=PIECES)
def test_a_second_time_changes_nothing(text: str, mask: Any) -> None:
    once = mask(text)
    assert mask(once) == once


def test_kinds_and_placeholders_are_a_matter_of_the_recipe() -> None:
    recipes.load("curated/text").import_custom_operators()
    operator = OPERATORS.modules["mask_personal_data_mapper"]
    some = operator(kinds=["mobile"], placeholders={"mobile": "[电话]"})
    assert some.mask("13912345678 a@qq.com") == "[电话] a@qq.com"
    with pytest.raises(ValueError, match="knows no landline; it knows email, identity"):
        operator(kinds=["landline"])


RUNS = ["1", "138 ", "a@", "1.1.", "微信", "QQ ", "a.b@c.", "6222 ", "+86", "`", "微信 （"]


@pytest.mark.timeout(120)
@pytest.mark.parametrize("run", RUNS)
def test_long_runs_take_linear_time(run: str, mask: Any) -> None:
    mask(run * 100_000)


@pytest.mark.parametrize(("share", "least"), [(0.5, 1.0)])
def test_planted_numbers_among_others(share: float, least: float, mask: Any) -> None:
    """Precision and recall over rows that have either a number of a person or another one."""
    draw = random.Random(7)
    masked = wrong = planted = 0
    for _ in range(2_000):
        digits = "".join(draw.choices("0123456789", k=draw.choice([9, 10, 12, 13, 14, 15, 17, 20])))
        if draw.random() < share:
            planted += 1
            number = draw.choice(["138", "159", "186"]) + digits.rjust(8, "4")[:8]
            masked += "<手机号>" in mask(f"请拨打{number}咨询")
        else:
            wrong += mask(f"记录 {digits} 已存") != f"记录 {digits} 已存"
    assert masked >= least * planted
    assert wrong == 0
