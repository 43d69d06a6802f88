"""Short texts and the ids that the published Qwen1.5 tokenizer gives them."""

_TABLE = {
    "炼钢先看火候，炼模型先看数据。": (
        "100532 99737 60726 50930 79599 99383 3837 100532 104949 60726 50930 20074 1773"
    ),
    "傳統漢字與简体字並存": "111629 110007 18600 101905 98237 31914 18600 100225 24360",
    "The steel was forged in 1873, wasn't it?": (
        "785 9509 572 53199 304 220 16 23 22 18 11 5710 944 432 30"
    ),
    "e\u0301cole = \xe9cole": "134670 284 3958 55645",
    "2024年12月31日 3.14159": ("17 15 17 19 7948 16 17 9754 18 16 8903 220 18 13 16 19 16 20 24"),
    "for (int i = 0; i < n; ++i) {\n\treturn x[i];\n}\r\n": (
        "1958 320 396 600 284 220 15 26 600 366 308 26 3443 72 8 341 853 856 989 935 1771"
    ),
    "    def f(self):\n        pass\n\n\n": ("262 707 282 1193 982 286 1494 1406"),
    "🚂🔥 👩🏽\u200d🔬 ok": "149203 144670 61804 102 145375 378 235 147948 5394",
    "Ωμέγα Привет こんにちは 안녕 שלום": (
        "144572 43123 79431 59374 18945 79484 26991 8178 220 89015 95170 144370 124756 123881"
    ),
    "DON'T we'Ll I'm": "84641 17323 582 91426 75 358 2776",
    "\u3000\u3000全角\u3000空格\u200b零宽": (
        "22441 22441 35987 63836 22441 34794 33983 15692 99822 99845"
    ),
    "𠮷野家 ﷽ �": "150152 99924 45629 32495 115 121 29333",
    "<|im_start|>user\n你好<|im_end|><|endoftext|>": ("151644 872 198 108386 151645 151643"),
}

REFERENCE_IDS = {text: tuple(map(int, ids.split())) for text, ids in _TABLE.items()}
"""Text -> ids, control tokens recognised: Chinese in both scripts, NFC, digits one by one, code
with tabs and CRLF, emoji, other scripts, case of contractions, odd spaces, rare characters."""
