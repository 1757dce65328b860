from typing import Any

import msgspec
import pytest

from sentinel.tokens.request import ChatRequest, CompletionRequest

LEAST = '"model":"m","messages":[]'


def chat(fields: str) -> ChatRequest:
    return msgspec.json.decode(f"{{{LEAST},{fields}}}", type=ChatRequest)


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "n"])
@pytest.mark.parametrize("value", ["1e400", "-1", "1.5", "1.0", "true", "1180591620717411303424", '"5"', "[]"])
def test_absurd_numbers_are_refused_by_name(name: str, value: str) -> None:
    """No number overflows later; the error names the field."""
    with pytest.raises(msgspec.ValidationError, match=rf"`\$\.{name}`"):
        chat(f'"{name}":{value}')


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ('{"model":1,"messages":[]}', r"\$\.model"),
        ('{"messages":[]}', "model"),
        ('{"model":"m"}', "messages"),
        ('{"model":"m","messages":{}}', r"\$\.messages"),
        ('{"model":"m","messages":[{"role":5}]}', r"\$\.messages\[0\]\.role"),
        ('{"model":"m","messages":[{"role":"user","content":7}]}', r"\$\.messages\[0\]\.content"),
        ('{"model":"m","messages":[{"role":"user","content":[{"text":"x"}]}]}', r"\$\.messages\[0\]\.content\[0\]"),
        ('{"model":"m","messages":[],"tools":[{"function":{}}]}', r"\$\.tools\[0\]\.function"),
    ],
)
def test_wrong_types_name_the_field(body: str, path: str) -> None:
    """The path of the error is what becomes `param` in the answer to the client."""
    with pytest.raises(msgspec.ValidationError, match=path):
        msgspec.json.decode(body, type=ChatRequest)


def test_unknown_fields_and_roles_pass() -> None:
    """What Sentinel does not decide on is the provider's business."""
    request = msgspec.json.decode(
        '{"model":"m","messages":[{"role":"martian","content":null,"x":1e400}],"new":{"a":1},"tool_choice":{"type":"x"}}',
        type=ChatRequest,
    )
    assert request.messages[0].role == "martian"


@pytest.mark.parametrize("prompt", ["x", ["a", "b"], [1, 2], [[1], [2, 3]], None, []])
def test_every_form_of_prompt_is_taken(prompt: Any) -> None:
    """A prompt is a text, texts, token ids, or arrays of token ids."""
    body = msgspec.json.encode({"model": "m", "prompt": prompt})
    assert msgspec.json.decode(body, type=CompletionRequest).prompt == prompt


@pytest.mark.parametrize("prompt", ['["a",1]', "[1,[2]]", "5", "{}", "[true]", "[-1]", "[1e400]", '[["a"]]', "[null]"])
def test_other_forms_of_prompt_are_refused_by_name(prompt: str) -> None:
    """A mixed or misshapen prompt is an error that names `prompt`."""
    with pytest.raises(msgspec.ValidationError, match=r"`\$\.prompt"):
        msgspec.json.decode(f'{{"model":"m","prompt":{prompt}}}', type=CompletionRequest)
