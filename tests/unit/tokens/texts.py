"""Texts that break tokenizers, as Hypothesis strategies."""

from hypothesis import strategies as st

HOSTILE = [
    "",
    " ",
    "A" * 100_000,
    " " * 10_000 + "x",
    "\n \t" * 3_000,
    "#" * 20_000,
    "<|endoftext|><|fim_prefix|><|im_start|>user",
    "it's DON'T \u017f'S we'LL '\u017f",
    "日本語のテキスト。そして、もっと。" * 50,
    "👩‍👩‍👧‍👦🏳️‍🌈👍🏽" * 40,
    "e\u0301a\u0300\u0316 กำลัง नमस्ते",
    "def f(x):\r\n\treturn {'a': [1, 23, 4567]}  # ok\n\n\n",
    "1234567890" * 500,
    "\u2028\u00a0\u3000\ufeff\x00\x1f",
]

words = st.sampled_from(
    [
        "the",
        " The",
        "  ",
        "\n\n",
        "\t",
        "don't",
        "I'LL",
        "日本",
        "。",
        "ß",
        "ǅ",
        "ʰ",
        "é",
        "e\u0301",
        "😀",
        "\u200d",
        "12",
        "3456",
        "...",
        "//",
        "<|endoftext|>",
        "/*",
        "\r\n",
        "\u00a0",
        "x_y",
        "'s",
        "'",
        "()",
        '"',
        "-",
        "٣",
        "Ⅷ",
        "\u0e33",
    ]
)
mixtures = st.lists(words, max_size=40).map("".join)
texts = st.one_of(st.text(max_size=200), mixtures, st.sampled_from(HOSTILE))
