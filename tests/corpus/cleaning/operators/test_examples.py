"""Our operators, and the paper's with patterns of our own, on single texts."""

from typing import Any

import pytest

from corpus.cleaning import recipe as recipes


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("，。、；：？！（）《》“”‘’—…【】", "，。、；：？！（）《》“”‘’—…【】"),
        ("ＤＨＡ约２００ｍｇ", "DHA约200mg"),
        ("３．１４，１．标题", "3.14，1．标题"),
        ("x² + y³ = ½，㎡，①", "x² + y³ = ½，㎡，①"),
        ("波尔\u200b多", "波尔多"),
        ("cafe\u0301", "café"),
        ("æ\x96‡å\xad—", "文字"),
        ("&lt;b&gt;", "&lt;b&gt;"),
        ("一\r\n二\x00", "一\n二"),
        # Characters that are bytes of UTF-8 by chance stay; what is mojibake beside them does not.
        ("爱过去的××“”，怀念××“之类", "爱过去的××“”，怀念××“之类"),
        ("字母“Ã”与“Â”，5×“3”，Ã©cole", "字母“Ã”与“Â”，5×“3”，école"),
        ("企业\u2ec5习，\u2ed3三\u2ec6", "企业见习，长三角"),
    ],
)
def test_unicode_is_mended(before: str, after: str, apply: Any) -> None:
    assert apply("repaired/text", "mend_unicode_mapper", before) == after


def test_literals_in_code_stay(apply: Any) -> None:
    source = '\ufeffa = "（１）&nbsp;"\nb = "e\u0301 Ã©"\n'
    assert apply("repaired/code", "mend_unicode_mapper", source) == source[1:]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("// Copyright 2020 A\n// All rights reserved.\n\n#include <x>\n", "#include <x>\n"),
        ("#include <x>\n// Copyright 2020\nint a;", "#include <x>\n// Copyright 2020\nint a;"),
        ("#!/bin/sh\n# Licensed under the MIT License.\n\nls\n", "#!/bin/sh\n\nls\n"),
        (
            "# -*- coding: utf-8 -*-\n# 说明\nimport os\n",
            "# -*- coding: utf-8 -*-\n# 说明\nimport os\n",
        ),
        ("/* A list. */\n/* (c) 2001 B */\nint a;", "/* A list. */\nint a;"),
        ("/* Copyright", "/* Copyright"),
        ("/* Copyright */ int a;", "/* Copyright */ int a;"),
        ("package a.b;\n\n/* Copyright C */\n\nclass D {}", "package a.b;\n\nclass D {}"),
        ("// 版权所有 2020\nint a;\n/* Copyright */", "int a;\n/* Copyright */"),
        ("# 标题\n正文", "# 标题\n正文"),
        (
            "# Toolkit: Stemmers\n#\n# Copyright (C) 2001 A\n# Author: B\n#\n\nimport os\n",
            "# Toolkit: Stemmers\n\nimport os\n",
        ),
        (
            "/*\n    cast.h: Casts between types\n\n    Copyright (c) 2016 A\n\n    All rights "
            "reserved.\n*/\n#pragma once\n",
            "/*\n    cast.h: Casts between types\n\n*/\n#pragma once\n",
        ),
        ("// Copyright A\n// clang-format off\n\nint  a;", "// clang-format off\n\nint  a;"),
        (
            "# Copyright 2011 A\n# -*- coding: latin-1 -*-\na = 1",
            "# -*- coding: latin-1 -*-\na = 1",
        ),
        (
            "/*\n * Copyright A\n *\n * Redistribution is permitted:\n *\n * 1. keep it\n *\n"
            " * There is no warranty.\n */\nint a;",
            "int a;",
        ),
        (
            "//-----\n// Microsoft\n// Copyright (C) 1998\n//\n// File: a.cxx\n//\n"
            "// Contents: Helpers\n//-----\nint a;",
            "//-----\n//\n// File: a.cxx\n//\n// Contents: Helpers\n//-----\nint a;",
        ),
    ],
)
def test_only_licence_headers_go(before: str, after: str, apply: Any) -> None:
    assert apply("repaired/code", "clean_licence_header_mapper", before) == after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("见https://a.cn/b?c=1，谢谢", "见，谢谢"),
        ("登录www.qhxdrcw.com）查看", "登录）查看"),
        ("[知乎](https://www.zhihu.com/a_(b))和![图](http://x.cn/1.png)", "知乎和图"),
        ("维基[条目](https://zh.wikipedia.org/wiki/a)。", "维基条目。"),
        ("公众号mp.weixin.qq.com/s/1N04m。", "公众号。"),
        ("CAS:1075-62-3 与 ID:abc，std::move", "CAS:1075-62-3 与 ID:abc，std::move"),
        ("EN14362--1:2003纺织品", "EN14362--1:2003纺织品"),
        ("文件 a.com 和 Node.js/Vue", "文件 a.com 和 Node.js/Vue"),
    ],
)
def test_only_links_go_from_text(before: str, after: str, apply: Any) -> None:
    assert apply("repaired/text", "clean_links_mapper", before) == after


def test_addresses_go_next_to_chinese(apply: Any) -> None:
    text = "邮箱:abc.d-e@qq.com。联系x@a.edu.cn处"
    assert apply("repaired/text", "clean_email_mapper", text) == "邮箱:。联系处"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("服务器 180.106.80.10 已停", "服务器  已停"),
        ("服务器180.106.80.10已停，http://39.96.105.144:8198/K", "服务器已停，http://:8198/K"),
        ("见 3.1.4.1 节，版本 3.4.0.0", "见 3.1.4.1 节，版本 3.4.0.0"),
        ("13.0.0.0.0 与 1234.5.6.7.8", "13.0.0.0.0 与 1234.5.6.7.8"),
        ("2001:0db8:85a3:0000:0000:8a2e:0370:7334", ""),
        ("12:30:45", "12:30:45"),
    ],
)
def test_only_addresses_go(before: str, after: str, apply: Any) -> None:
    assert apply("repaired/text", "clean_ip_mapper", before) == after


@pytest.mark.timeout(300)
@pytest.mark.parametrize("recipe", ["repaired/text", "repaired/code"])
def test_long_runs_do_not_take_quadratic_time(recipe: str, apply: Any) -> None:
    """Backtracking over 400,000 characters would take longer than the test's own limit."""
    runs = [
        "a" * 400_000 + " @ ",
        "a." * 200_000 + " @",
        "1." * 200_000,
        " " * 400_000 + "<",
        "<!--" * 100_000,
        "<script " * 50_000,
        "<p a=" * 80_000,
        "[a](http://" * 40_000,
    ]
    for entry in recipes.load(recipe).operators:
        if entry.name.endswith(("email_mapper", "ip_mapper", "links_mapper", "text_mapper")):
            for run in runs:
                apply(recipe, entry.name, run)


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("clean_email_mapper", "author: jane.doe@example.com,", "author: ,"),
        ("clean_email_mapper", "y = q@k.transpose(0, 1)", "y = q@k.transpose(0, 1)"),
        ("clean_email_mapper", "y = q@k.to(x) + a@b.mm[0]", "y = q@k.to(x) + a@b.mm[0]"),
        ("clean_links_mapper", 'get("https://a.b/c?d=e")', 'get("")'),
        (
            "clean_links_mapper",
            "a?bb:cc; name:str; std::move(x)",
            "a?bb:cc; name:str; std::move(x)",
        ),
    ],
)
def test_code_keeps_what_only_looks_like_a_link(
    name: str, before: str, after: str, apply: Any
) -> None:
    assert apply("repaired/code", name, before) == after
