"""Where things stand in a TOML file, in every spelling that its reader takes."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.toml_lines import LinesOf


def test_tables_and_keys_are_where_they_stand() -> None:
    """Headers, pairs, quoted and dotted keys, and what is around them."""
    text = '''\
# a comment with [a.header] and """
[providers.first]
type = "openai"
 "api_key" = "env:A" # behind it

["models".'gpt-4o*']
targets.x = 1
"an \\u00e9scape".y = 2
'''
    lines = LinesOf(text)
    assert lines(["providers"]) == lines(["providers", "first"]) == 2
    assert lines(["providers", "first", "type"]) == 3
    assert lines(["providers", "first", "api_key"]) == 4
    assert lines(["models", "gpt-4o*", "targets", "x"]) == 7
    assert lines(["models", "gpt-4o*", "an \u00e9scape", "y"]) == 8


def test_what_is_not_there_is_where_its_surroundings_are() -> None:
    """The nearest of them; the first line where there are none."""
    lines = LinesOf("\n[a.b]\nc = 1\n")
    assert lines(["a", "b", "nothing"]) == 2
    assert lines(["a", "b", "c", 4, "deeper"]) == 3
    assert lines(["nothing"]) == lines([]) == 1


def test_items_of_lists_have_their_own_lines() -> None:
    """Over several lines, with comments and commas anywhere, and tables within."""
    text = """\
targets = [ # ]
  { provider = "a", weight = 1 }, { provider = "b" },
  # { provider = "none" }
  [ 1,
    [2, 3],
    [],
  ]
  ,
  {},
]
after = { list = [
  1,
], last = 2 }
"""
    lines = LinesOf(text)
    assert [lines(["targets", number]) for number in range(4)] == [2, 2, 4, 9]
    assert lines(["targets", 1, "provider"]) == 2
    assert lines(["targets", 2, 1]) == lines(["targets", 2, 1, 1]) == 5
    assert (lines(["after", "list", 0]), lines(["after", "last"])) == (12, 13)


def test_arrays_of_tables_are_told_apart() -> None:
    """Each header begins another; what is below belongs to the last."""
    text = """\
[[m.targets]]
provider = "a"
[[m.targets]]
provider = "b"
[m.targets.price]
input = 1
[[m.targets.deeper]]
x = 1
"""
    lines = LinesOf(text)
    assert lines(["m", "targets"]) == lines(["m", "targets", 0]) == 1
    assert lines(["m", "targets", 1]) == 3
    assert lines(["m", "targets", 1, "provider"]) == 4
    assert lines(["m", "targets", 1, "price", "input"]) == 6
    assert lines(["m", "targets", 1, "deeper", 0, "x"]) == 8


@pytest.mark.parametrize("mark", ['"' * 3, "'" * 3])
@pytest.mark.parametrize(
    "text", ["\n[no.header]\nno = 1\n", "", "\n''\n", '\n"" \n', "a # no comment\n]},\n", '""', "\\\\"]
)
def test_texts_of_several_lines_are_no_keys(mark: str, text: str) -> None:
    """Whatever they say, and with quotes at their ends."""
    file = f"long = {mark}{text}{mark}\nnext = 1\n"
    tomllib.loads(file)
    assert LinesOf(file)(["next"]) == file[: file.index("next")].count("\n") + 1
    assert LinesOf(file)(["no"]) == 1


def test_escaped_quotes_do_not_end_a_text() -> None:
    """Nor do the quotes of the other kind, or a mark in a text of one line."""
    text = 'a = """x\n\\"""\ny"""\nb = "\\"[c]\\\\"\nd = \'"""\'\ne = "\'\'\'" # """\nf = 1'
    tomllib.loads(text)
    assert [LinesOf(text)([name]) for name in "abdef"] == [1, 4, 5, 6, 7]


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_a_line_is_what_ends_as_the_reader_has_it(ends: str) -> None:
    """Other separators of Unicode end none."""
    text = ends.join(["# \u2028 \u0085 \u2029", "", "a = 'x\u2028y'", "  [b] ", "c = 1979-05-27T07:32:00Z"])
    tomllib.loads(text)
    assert [LinesOf(text)(path) for path in (["a"], ["b"], ["b", "c"])] == [3, 4, 5]


NAMES = st.text(max_size=4) | st.sampled_from(["a", "b.c", "\u2028", "'", '"', "[", "="])
SCALARS = st.integers(-9, 9) | st.booleans() | st.text(max_size=6)


def quoted(text: str) -> str:
    escaped = (f"\\U{ord(each):08x}" if each in '"\\\x7f' or each < " " else each for each in text)
    return f'"{"".join(escaped)}"'


def written(value: Any, ends: str) -> str:
    """A value, with its lists over several lines."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{quoted(key)} = {written(each, ends)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + "".join(f"{ends} {written(each, ends)}," for each in value) + f"{ends}]"
    if isinstance(value, bool):
        return str(value).lower()
    return quoted(value) if isinstance(value, str) else str(value)


def places(value: Any, path: tuple[str | int, ...]) -> list[tuple[str | int, ...]]:
    inner: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, each in inner for place in places(each, (*path, key)))]


@given(
    tree=st.dictionaries(
        NAMES,
        st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3)),
        min_size=1,
    ),
    ends=st.sampled_from(["\n", "\r\n", "\n\n# [no]\n"]),
)
def test_whatever_can_be_read_has_lines(tree: dict[str, Any], ends: str) -> None:
    """Each key at the top is where it was written, and all that is inside of it comes before the next one."""
    text, begins = "", []
    for key, value in tree.items():
        begins.append(text.count("\n") + 1)
        text += f"{quoted(key)} = {written(value, ends)}\n"
    assert tomllib.loads(text) == tree
    lines = LinesOf(text)
    for (key, value), begin, end in zip(tree.items(), begins, [*begins[1:], text.count("\n") + 1], strict=True):
        assert lines([key]) == begin
        within = [lines(place) for place in places(value, (key,))]
        assert within == sorted(within)
        assert all(begin <= line < end for line in within)
