"""Whatever names an object of the provider is found, wherever it stands; what an application defines itself is not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sentinel.endpoints.references import MOST_REFERENCES, NO_REFERENCES, Reference, ReferenceFields
from sentinel.error import InvalidJson, InvalidType

FIELDS = ReferenceFields(
    {
        "previous_response_id": "responses",
        "conversation": "conversations",
        "file_id": "files",
        "file_ids": "files",
        "container": "containers",
    },
    {"item_reference": "responses"},
)


RECALLING = ReferenceFields(
    {"skill_id": "skills", "characters": "characters"},
    recalled={"image_generation_call": ("result",), "reasoning": ("encrypted_content", "content")},
)


def found(body: Any) -> list[Reference]:
    return list(FIELDS.found_in(json.dumps(body).encode()))


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"previous_response_id": "r1"}, [("r1", "responses", "previous_response_id")]),
        ({"conversation": "c1"}, [("c1", "conversations", "conversation")]),
        ({"conversation": {"id": "c1", "name": "x"}}, [("c1", "conversations", "conversation.id")]),
        (
            {"messages": [{"content": [{"type": "text"}, {"file": {"file_id": "f1"}}]}]},
            [("f1", "files", "messages[0].content[1].file.file_id")],
        ),
        (
            {"tools": [{"type": "code_interpreter", "container": {"type": "auto", "file_ids": ["f1", "f2"]}}]},
            [
                ("f1", "files", "tools[0].container.file_ids[0]"),
                ("f2", "files", "tools[0].container.file_ids[1]"),
            ],
        ),
        (
            {"input": [{"type": "item_reference", "id": "i1"}, {"type": "message", "id": "m1"}]},
            [("i1", "responses", "input[0].id")],
        ),
    ],
)
def test_what_is_found(body: Any, expected: list[tuple[str, str, str]]) -> None:
    """With its kind, and the path that an error can name."""
    assert [each[:3] for each in found(body)] == expected


@pytest.mark.parametrize(
    "body",
    [
        {"metadata": {"file_id": "mine"}},
        {"tools": [{"function": {"parameters": {"properties": {"file_id": {"type": "string"}}, "file_id": "x"}}}]},
        {"text": {"format": {"schema": {"file_ids": ["x"]}}}},
        {"file_id": None, "conversation": True, "file_ids": [None], "container": {"type": "auto", "id": None}},
        {"input": "file_id"},
        ["item_reference"],
    ],
)
def test_what_is_none(body: Any) -> None:
    """What applications define themselves, and what is no id."""
    assert found(body) == []


def test_both_of_two_equal_keys() -> None:
    """A provider may obey either."""
    body = b'{"input":[{"file_id":"mine","file_id":"theirs"}],"previous_response_id":"a","previous_response_id":"b"}'
    assert [reference.id for reference in FIELDS.found_in(body)] == ["mine", "theirs", "a", "b"]


def test_one_type_of_two() -> None:
    """The same for the type that says that there is an id."""
    body = b'{"input":[{"type":"message","id":"i1","type":"item_reference"}]}'
    assert [reference.id for reference in FIELDS.found_in(body)] == ["i1"]


def test_a_key_in_escapes() -> None:
    """A provider reads it as what it is."""
    assert [r.id for r in FIELDS.found_in(b'{"\\u0066ile\\u005fid":"f1"}')] == ["f1"]


def test_a_number_of_any_length() -> None:
    """Python refuses integers of over 4,300 digits."""
    assert [r.id for r in FIELDS.found_in(b'{"file_id":"f1","seed":%b,"t":1e5}' % (b"1" * 5000))] == ["f1"]


def test_a_format_without_ids() -> None:
    """Looks for none."""
    assert NO_REFERENCES.found_in(b'{"file\\u005fid":"f1"}') == ()


@pytest.mark.parametrize("levels", [2_000, 100_000])
def test_nested_too_deeply(levels: int) -> None:
    """An error of the client's, however deep."""
    with pytest.raises(InvalidJson, match="nested too deeply"):
        FIELDS.found_in(b'{"file_id":"f1","x":%b%b}' % (b"[" * levels, b"]" * levels))


def test_too_many() -> None:
    """Each is a question to Redis."""
    assert len(found({"file_ids": ["f"] * MOST_REFERENCES})) == MOST_REFERENCES
    with pytest.raises(InvalidType, match="more than 1,000 objects") as error:
        found({"file_ids": ["f"] * (MOST_REFERENCES + 1)})
    assert error.value.param == "file_ids[1000]"


def test_what_is_context() -> None:
    """All of an earlier response, or of a conversation, becomes input; of other objects what the request asks for."""
    body = {
        "previous_response_id": "r1",
        "conversation": {"id": "c1"},
        "input": [{"type": "item_reference", "id": "i1"}, {"file_id": "f1"}],
    }
    assert [reference.id for reference in found(body) if reference.is_context] == ["r1", "c1"]
    assert [reference.id for reference in found({"conversation": "c1"}) if reference.is_context] == ["c1"]


@pytest.mark.parametrize(
    ("item", "names"),
    [
        ({"type": "image_generation_call", "id": "ig_1"}, True),
        ({"type": "image_generation_call", "id": "ig_1", "result": None}, True),
        ({"type": "image_generation_call", "id": "ig_1", "result": "aGk="}, False),
        ({"type": "reasoning", "id": "rs_1", "summary": [{"text": "x"}], "content": []}, True),
        ({"type": "reasoning", "id": "rs_1", "encrypted_content": "x"}, False),
        ({"type": "reasoning", "id": "rs_1", "content": [{"text": "x"}]}, False),
        ({"type": "message", "id": "msg_1", "content": "x"}, False),
    ],
)
def test_what_a_provider_recalls(item: Any, names: bool) -> None:
    """What comes without its content stands for what the provider has kept, and must not be another's."""
    references = RECALLING.found_in(json.dumps({"input": [item]}).encode())
    assert list(references) == ([Reference(item["id"], "", "input[0].id", is_known=False)] if names else [])


def test_what_a_provider_has_for_all() -> None:
    """A skill of the vendor's is nobody's, and no other's either."""
    references = RECALLING.found_in(b'{"skills": [{"skill_id": "skill_1"}, {"skill_id": "pptx"}]}')
    assert [each.is_known for each in references] == [True, False]


def test_lists_of_objects() -> None:
    """Each by its `id`."""
    references = RECALLING.found_in(b'{"characters": [{"id": "c1"}, {"id": "c2", "name": "x"}]}')
    assert [each[:3] for each in references] == [
        ("c1", "characters", "characters[0].id"),
        ("c2", "characters", "characters[1].id"),
    ]
