"""A request in the words of its target: nothing but the renamed field changes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.endpoints.chat import CHAT
from sentinel.endpoints.client_secrets import CLIENT_SECRETS
from sentinel.endpoints.endpoint import UNCHANGED, Changes, Endpoint
from sentinel.endpoints.form import read_form
from sentinel.endpoints.gemini_count import ContentCountEndpoint
from sentinel.endpoints.gemini_embeddings import BatchEmbedContentsEndpoint
from sentinel.proxy.adaptation import adapted, form_with_model, with_maximum_as, with_model, within_habits


@dataclass
class Told:
    """What a target is to be told in another way."""

    model: str | None = None
    max_tokens_field: str | None = None
    renames_maximum: bool = False
    stream_usage: bool = True


def endpoint(format_name: str = "chat", *, in_path: bool = False) -> Endpoint[Any]:
    class Format:
        format = format_name
        names_model_in_path = in_path
        models = () if in_path else Endpoint.models
        renamed = Endpoint.renamed

    return cast("Endpoint[Any]", Format())


JSON, FORM = b"application/json", b'multipart/form-data; boundary="b-1"'

# ----------------------------------------------------------------------------------------------- the model in JSON


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"model":"a","x":1}', b'{"model":"b","x":1}'),
        (b'{\n  "x" : 1.10 ,\t"model"\r\n:  "a" }\n', b'{\n  "x" : 1.10 ,\t"model"\r\n:  "b" }\n'),
        (
            b'{"model":"a","m":[{"content":"a \\"model\\":\\"a\\" \\u00e9"}]}',
            b'{"model":"b","m":[{"content":"a \\"model\\":\\"a\\" \\u00e9"}]}',
        ),
        (
            b'{"messages":[{"content":"\\"model\\":\\"a\\""}],"model":"a"}',
            b'{"messages":[{"content":"\\"model\\":\\"a\\""}],"model":"b"}',
        ),
        (b'{"x":{"model":"a"},"model":"a"}', b'{"x":{"model":"a"},"model":"b"}'),
        (b'{"mod\\u0065l":"a","x":{"model":"a"}}', b'{"mod\\u0065l":"b","x":{"model":"a"}}'),
        (b'{"x\\"":1,"y":"\\\\","model" : "a" , "z":{}}', b'{"x\\"":1,"y":"\\\\","model" : "b" , "z":{}}'),
        (b'{"model":"\\u0061"}', b'{"model":"b"}'),
        (b'{"x":["model"],"model":"a"}', b'{"x":["model"],"model":"b"}'),
        (b'{"x":{"model":"a"}}', b'{"x":{"model":"a"},"model":"b"}'),
        (b'{"x":{"model":1},"y":2}', b'{"x":{"model":1},"y":2,"model":"b"}'),
        (b'{"model":null,"y":2}', b'{"model":"b","y":2}'),
    ],
)
def test_the_name_of_the_model_alone_is_another(body: bytes, expected: bytes) -> None:
    """Where it stands; nothing of that name further inside is."""
    assert with_model(body, "a", "b", CHAT) == expected


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (
            "batch",
            '{"requests":[ {"model" : "models/@","content":{"x":"\\"model\\":\\"a\\""}} , {"model":"@"}]}',
        ),
        (
            "count",
            '{"generateContentRequest":{"tools":[{"functionCall":{"args":{"model":"a"}}}],"model":"models/@"}}',
        ),
        ("count", '{"generate_content_request": {"model":"models/@"}}'),
        ("count", '{"contents":[] }'),
        ("secrets", '{"session": {"type":"realtime", "model":"@"} }'),
        ("secrets", '{"model":"@","tracing":{"model":"a"}}'),
        ("secrets", '{"model":"other","session":{"model":"@"}}'),
    ],
)
def test_the_name_of_the_model_where_a_format_has_it(path: str, body: str) -> None:
    """Also inside of others, in lists, and as a resource; all other bytes stay."""
    endpoints: dict[str, Endpoint[Any]] = {
        "batch": BatchEmbedContentsEndpoint("v1beta", "models/a"),
        "count": ContentCountEndpoint("v1beta", "models/a"),
        "secrets": CLIENT_SECRETS,
    }
    changed = with_model(body.replace("@", "a").encode(), "a", "b", endpoints[path])
    assert changed == body.replace("@", "b").encode()


def test_a_tuned_model_is_another_resource() -> None:
    """It is no model of Google's."""
    batch = BatchEmbedContentsEndpoint("v1beta", "models/a")
    body = b'{"requests":[{"model":"models/a"}]}'
    assert with_model(body, "a", "tunedModels/b", batch) == b'{"requests":[{"model":"tunedModels/b"}]}'


def test_names_are_written_as_json_wants_them() -> None:
    """Slashes, quotes, line ends and any letter; escapes of the client's are read."""
    assert with_model(b'{"model":"a\\/b"}', "a/b", 'x"\n\u00e9', CHAT) == '{"model":"x\\"\\n\u00e9"}'.encode()


KEYS = st.sampled_from(["model", "max_tokens", "max_completion_tokens", "x", "\u00e9", '"', "model ", "\\"])
TEXTS = st.sampled_from(["gpt", "model", '"model":"gpt"', '"max_tokens":', "\\", "\u00e9", "\U0001f600", "", "a\nb"])
TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=12,
)
MODELS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8) | st.just("gpt")


@st.composite
def written(draw: st.DrawFn, fields: dict[str, Any]) -> bytes:
    """These fields as any client may write them."""
    return draw(
        st.sampled_from(
            [
                json.dumps(fields).encode(),
                json.dumps(fields, ensure_ascii=False).encode("utf-8"),
                json.dumps(fields, indent=3, separators=(" ,", "\t:\r\n ")).encode(),
                json.dumps(fields, separators=(",", ":")).encode() + b" \n",
            ]
        )
    )


def equal(one: bytes, other: bytes) -> int:
    """How many bytes at the beginning are."""
    return next((place for place, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), len(one))


@given(st.data(), st.dictionaries(KEYS, TREES, max_size=4), MODELS, MODELS, st.booleans())
def test_all_but_the_model_stays(
    data: st.DataObject,
    others: dict[str, Any],
    before: str,
    after: str,
    is_first: bool,
) -> None:
    """Decoded, all is equal but for that field; and so are its bytes."""
    others.pop("model", None)
    fields = {"model": before, **others} if is_first else {**others, "model": before}
    body = data.draw(written(fields))
    changed = with_model(body, before, after, CHAT)
    assert json.loads(changed) == {**fields, "model": after}
    assert list(json.loads(changed)) == list(fields)
    stay = equal(body, changed) + equal(body[::-1], changed[::-1])
    assert stay >= len(body) - len(json.dumps(before))


# --------------------------------------------------------------------------------------------- the model in a form


def form(*parts: tuple[bytes, bytes], boundary: bytes = b"b-1") -> bytes:
    return (
        b"".join(b"--%b\r\n%b\r\n\r\n%b\r\n" % (boundary, head, value) for head, value in parts)
        + b"--%b--\r\n" % boundary
    )


def disposition(name: str) -> bytes:
    return f'Content-Disposition: form-data; name="{name}"'.encode()


MODEL = disposition("model")
FILE = (
    b'Content-Disposition: form-data; name="image"; filename="model"\r\nContent-Type: image/png',
    b"\x89PNG\r\n\r\ngpt",
)


@pytest.mark.parametrize(
    "head",
    [
        MODEL,
        b"content-disposition:form-data; name=model",
        b'Content-Type: text/plain; charset=utf-8\r\nContent-Disposition:  form-data; name="model" ',
        b'CONTENT-DISPOSITION: form-data; x="a;name=y"; NAME="model"\r\nContent-Type: text/plain',
    ],
)
@pytest.mark.parametrize("content_type", [FORM, b"Multipart/Form-Data;BOUNDARY=b-1; charset=utf-8"])
def test_the_model_of_a_form_is_another(head: bytes, content_type: bytes) -> None:
    """However its part is headed, and whatever is around it."""
    text = (disposition("prompt"), b'x name="model"\r\n\r\ngpt\r\n--b-\r\n' + MODEL + b"\r\n\r\ngpt\r\n--b")
    for parts in ([(head, b"%b")], [FILE, (head, b"%b"), text], [text, (head, b"%b"), FILE]):
        template = form(*parts)
        body, expected = (template.replace(b"%b", model) for model in (b"gpt", "\u00e9/longer".encode()))
        assert read_form(body, content_type, ["model"]).text("model") == "gpt"
        assert form_with_model(body, content_type, "gpt", "\u00e9/longer") == expected


@pytest.mark.parametrize(
    "body",
    [
        form((disposition("prompt"), b"gpt"), FILE),
        form((MODEL, b"another")),
        form((disposition("models"), b"gpt"), (disposition("x-model"), b"gpt")),
        form((b"Content-Disposition: form-data; name=x; filename=model", b"gpt")),
        form((b"X-Content-Disposition: form-data; name=model", b"gpt")),
        b"--b-1--\r\n",
        b"",
    ],
)
def test_a_form_without_that_model_stays(body: bytes) -> None:
    """There is nothing to rename in it."""
    assert form_with_model(body, FORM, "gpt", "other") == body


@given(
    st.lists(st.sampled_from([b"\r\n", b"--b-1", b"--b-", b"--", MODEL, b"gpt", b"x", b"\r\n\r\n"]), max_size=12).map(
        b"".join
    ),
    st.lists(st.sampled_from([b"\r\n", b"--b-", b"gpt", MODEL, b"\r\n\r\n"]), max_size=6).map(b"".join),
)
def test_nothing_else_of_a_form_is_another(text: bytes, more: bytes) -> None:
    """Wherever a form can be read at all, with any text before and behind the model."""
    body = form((disposition("prompt"), text), (MODEL, b"gpt"), (disposition("more"), more))
    try:
        before = read_form(body, FORM, ["model"])
    except Exception:  # noqa: BLE001 - It is refused before it comes here.
        return
    after = read_form(form_with_model(body, FORM, "gpt", "other"), FORM, ["model"])
    assert before.text("model") == "gpt"
    assert after.texts == [(name, "other" if name == "model" else value) for name, value in before.texts]
    assert after.files == before.files


# ---------------------------------------------------------------------------------------------- the maximum of output


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{ "max_completion_tokens" :5, "x":1.10}', b'{ "max_tokens" :5, "x":1.10}'),
        (b'{"max_completion_tokens":null}', b'{"max_tokens":null}'),
        (b'{"max_tokens":5}', b'{"max_tokens":5}'),
        (b'{"max_tokens":5,"max_completion_tokens":6}', b'{"max_tokens":5,"max_completion_tokens":6}'),
        (b'{"x":{"max_completion_tokens":1}}', b'{"x":{"max_completion_tokens":1}}'),
        (b'{"x":"max_completion_tokens","max_completion_tokens":1}', b'{"x":"max_completion_tokens","max_tokens":1}'),
        (b'{"max_completion_token\\u0073":1, "y":2}', b'{"max_tokens":1,"y":2}'),
        (b'{"x":"\\u00e9 \\"max_completion_tokens\\":"}', b'{"x":"\\u00e9 \\"max_completion_tokens\\":"}'),
        (b'{"x":1}', b'{"x":1}'),
    ],
)
def test_a_maximum_goes_by_the_name_that_the_target_knows(body: bytes, expected: bytes) -> None:
    """The client's own, at the top level, where it has no such field itself."""
    assert with_maximum_as(body, "max_tokens") == expected


@given(st.data(), st.dictionaries(KEYS, TREES, max_size=5), st.sampled_from(["max_tokens", "max_completion_tokens"]))
def test_all_but_the_maximum_stays(data: st.DataObject, fields: dict[str, Any], name: str) -> None:
    """In its place and with its value."""
    other = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}[name]
    changed = with_maximum_as(data.draw(written(fields)), name)
    renames = other in fields and name not in fields
    expected = {name if renames and key == other else key: value for key, value in fields.items()}
    assert list(json.loads(changed).items()) == list(expected.items())


# ----------------------------------------------------------------------------------------------------------- all of it


def test_a_body_is_adapted_as_a_whole() -> None:
    """Another model, and another name for the maximum."""
    body = b'{"model":"a","max_completion_tokens":5}'
    habits = Told(model="b", max_tokens_field="max_tokens", renames_maximum=True)
    assert adapted(body, JSON, "a", habits, endpoint()) == b'{"model":"b","max_tokens":5}'


@pytest.mark.parametrize(
    ("habits", "format_name", "in_path"),
    [
        (Told(), "chat", False),
        (Told(model="a"), "chat", False),
        (Told(model="b"), "gemini", True),
        (Told(max_tokens_field="max_tokens"), "chat", False),
        (Told(max_tokens_field="max_tokens", renames_maximum=True), "responses", False),
        (Told(renames_maximum=True), "chat", False),
    ],
)
def test_what_needs_nothing_stays_byte_for_byte(habits: Told, format_name: str, in_path: bool) -> None:
    """The same object, even."""
    body = b'{"model":"a","max_completion_tokens":5}'
    assert adapted(body, JSON, "a", habits, endpoint(format_name, in_path=in_path)) is body


def test_forms_are_adapted_as_forms() -> None:
    """By their content type."""
    assert adapted(form((MODEL, b"a")), FORM, "a", Told(model="b"), endpoint("images")) == form((MODEL, b"b"))


def test_our_changes_are_in_the_words_of_the_target() -> None:
    """No question for usage where it does not know that; the maximum by its name, in chats alone."""
    asks = Changes(ask_usage=True, adds_usage=True)
    bounds = Changes(output_max=5, adds_max=True, output_field="max_completion_tokens")
    mistral = Told(max_tokens_field="max_tokens", stream_usage=False)
    assert within_habits(asks, mistral, is_chat=True) is UNCHANGED
    assert within_habits(asks, Told(), is_chat=True) == asks
    assert within_habits(bounds, mistral, is_chat=True).output_field == "max_tokens"
    assert within_habits(bounds, mistral, is_chat=False) == within_habits(bounds, Told(), is_chat=True) == bounds
    assert within_habits(UNCHANGED, mistral, is_chat=True) is UNCHANGED
