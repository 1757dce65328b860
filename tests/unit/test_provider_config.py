"""The file that SENTINEL_CONFIG names: what it says, and every mistake in it at once, with its line."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.prices.rates import Price
from sentinel.provider_config import (
    FORMATS,
    ConfigMistakes,
    KeySource,
    ModelSpec,
    ProviderConfig,
    ProviderSpec,
    TargetSpec,
    read_config,
)

LEAST = """
[providers.openai]
type = "openai"
api_key = "env:OPENAI_API_KEY"
"""
WHOLE = """
# All that there is.
[providers.azure-eu]
type = "azure"
url = "https://eu.openai.azure.com/"
api_key = ["env:AZURE_1", "file:/run/secrets/azure"]
formats = ["chat", "embeddings"]
connect_timeout_seconds = 2
idle_timeout_seconds = 1_200.5
keepalive_seconds = 0
max_tokens_field = "max_tokens"
stream_usage = false
proxy = "http://user:secret@proxy.corp.test:3128"
ca_file = "/etc/ssl/corp.pem"
api_version = "2024-10-21"

[providers.openrouter]
type = "compatible"
preset = "openrouter"
api_key = "env:OPENROUTER_API_KEY"

[models."gpt-4o*"]
targets = [
    { provider = "azure-eu", model = "gpt4o-prod", weight = 9, concurrency = 100 },
    { provider = "openrouter", weight = 1 },
]
fallback = [{ provider = "openrouter", model = "openai/gpt-4o" }]
price = { input = 2.5, cached_input = 1.25, output = 10 }
"""


def mistakes(text: str) -> list[str]:
    with pytest.raises(ConfigMistakes) as caught:
        read_config(text)
    assert str(caught.value) == "\n".join(caught.value.mistakes)
    return caught.value.mistakes


def provider(**fields: str) -> ProviderSpec:
    """What a file with these fields, as TOML, makes of a provider."""
    text = "[providers.p]\n" + "".join(f"{name} = {value}\n" for name, value in fields.items())
    (spec,) = read_config(text).providers
    return spec


# ------------------------------------------------------------------------------------------------- what it says


def test_little_needs_to_be_said() -> None:
    """The type knows the rest."""
    (openai,) = read_config(LEAST).providers
    assert (openai.name, openai.type, openai.url) == ("openai", "openai", "https://api.openai.com/v1")
    assert openai.keys == (KeySource("env", "OPENAI_API_KEY"),)
    assert openai.formats == {"chat", "completions", "embeddings", "responses", "other"}
    assert (openai.max_tokens_field, openai.stream_usage) == ("max_completion_tokens", True)
    assert (openai.connect_timeout_seconds, openai.idle_timeout_seconds, openai.keepalive_seconds) == (5, 600, 4)
    assert (openai.proxy, openai.ca_file, openai.api_version, openai.preset, openai.token_command) == (
        *(None, None, None, None),
        (),
    )
    assert read_config(LEAST).models == ()


def test_all_can_be_said() -> None:
    """Durations as floats, prices as they are written, lists of keys in their order."""
    config = read_config(WHOLE)
    azure, openrouter = config.providers
    assert azure == ProviderSpec(
        name="azure-eu",
        type="azure",
        url="https://eu.openai.azure.com",
        keys=(KeySource("env", "AZURE_1"), KeySource("file", "/run/secrets/azure")),
        formats=frozenset({"chat", "embeddings"}),
        max_tokens_field="max_tokens",
        stream_usage=False,
        connect_timeout_seconds=2.0,
        idle_timeout_seconds=1200.5,
        keepalive_seconds=0.0,
        proxy="http://user:secret@proxy.corp.test:3128",
        ca_file="/etc/ssl/corp.pem",
        api_version="2024-10-21",
        renames_maximum=True,
    )
    assert "user:secret" not in repr(azure)
    assert [str(key) for key in azure.keys] == ["env:AZURE_1", "file:/run/secrets/azure"]
    assert (openrouter.preset, openrouter.url) == ("openrouter", "https://openrouter.ai/api/v1")
    assert config.models == (
        ModelSpec(
            "gpt-4o*",
            (TargetSpec("azure-eu", "gpt4o-prod", 9, 100), TargetSpec("openrouter")),
            (TargetSpec("openrouter", "openai/gpt-4o"),),
            {"input": Decimal("2.5"), "cached_input": Decimal("1.25"), "output": Decimal(10)},
        ),
    )


DOTTED = """
providers.p.type = 'compatible'
providers.p.url = 'http://h/v1'
[models.m]
targets = [{provider = 'p', weight = 1_000}]
"""
INLINE = """
[providers]
p = { type = 'compatible', url = 'http://h/v1' }
[[models.m.targets]] # one
provider = '''p'''
weight = 0x3e8
"""
QUOTED = '''
["providers"."p"]
"type" = "compat\\u0069ble" # \u00e9
url = """
http://h/v1"""
[models]
[models.'m']
targets = [
  {provider = "p", weight = 1000}, # one
]
'''


@pytest.mark.parametrize("text", [DOTTED, INLINE, QUOTED, QUOTED.replace("\n", "\r\n")], ids=range(4))
def test_every_spelling_is_taken(text: str) -> None:
    """TOML has several; they mean the same."""
    config = read_config(text)
    assert [(spec.name, spec.type, spec.url) for spec in config.providers] == [("p", "compatible", "http://h/v1")]
    assert config.models == (ModelSpec("m", (TargetSpec("p", None, 1000),)),)


def test_a_field_that_is_named_renames_the_clients() -> None:
    """As a preset that knows one name does; a type that knows both leaves the client's."""
    url = "'http://h/v1'"
    assert not provider(type="'compatible'", url=url).renames_maximum
    assert provider(type="'compatible'", url=url, max_tokens_field="'max_tokens'").renames_maximum
    assert provider(type="'compatible'", preset="'ollama'").renames_maximum
    assert not provider(type="'compatible'", preset="'vllm'", url=url).renames_maximum


def test_servers_of_ones_own_need_no_key() -> None:
    """Nor does a command that prints a token leave one missing."""
    assert provider(type="'compatible'", url="'http://h/v1'").keys == ()
    azure = provider(type="'azure'", url="'https://r.openai.azure.com'", token_command="['az', 'token']")
    assert (azure.keys, azure.token_command) == ((), ("az", "token"))


def test_formats_without_a_name_are_other() -> None:
    """Images, audio, realtime and all else of OpenAI."""
    openai = provider(type="'openai'", api_key="'env:K'", formats="['chat', 'other']")
    assert [name for name in (*FORMATS, "images", "speech") if openai.speaks(name)] == [
        *("chat", "other", "images", "speech"),
    ]
    assert not provider(type="'compatible'", url="'http://h'").speaks("images")


@pytest.mark.parametrize(
    ("pattern", "is_exact", "fits", "others"),
    [
        ("gpt-4o", True, ["gpt-4o"], ["gpt-4o-mini", "gpt-4", ""]),
        ("gpt-4o*", False, ["gpt-4o", "gpt-4o-mini"], ["gpt-4", "x-gpt-4o"]),
        ("*", False, ["", "anything"], []),
    ],
)
def test_a_pattern_is_a_name_or_a_prefix(pattern: str, is_exact: bool, fits: list[str], others: list[str]) -> None:
    """What is in front of the star must begin the name."""
    spec = ModelSpec(pattern, ())
    assert spec.is_exact == is_exact
    assert [name for name in [*fits, *others] if spec.fits(name)] == fits


# ------------------------------------------------------------------------------------------------ what is wrong


def test_every_mistake_is_told_at_once_with_its_line() -> None:
    """In the order of the lines."""
    text = """\
top = 1
[providers.a]
type = "opnai"
url = 5
weight = 2

[providers."b\\nc"]
type = "azure"
api_key = "sk-very-secret"
preset = "vllm"

[models."x*y"]
targets = [
    { provider = "b\\nc", weight = 0 },
    { provider = "b\\nc", colour = "red" },
]
[models.ok]
targets = [
    { provider = "a" },
    { provider = "none" },
]
fallback = [{ provider = "neither" }]
price = {}
[[models.more.targets]]
provider = "a"
[[models.more.targets]]
model = "no provider"
"""
    formats = "'openai', 'azure', 'anthropic', 'gemini' or 'compatible'"
    assert mistakes(text) == [
        "line 1: top is no setting",
        f"line 3: providers.a.type: Input should be {formats}",
        "line 4: providers.a.url: Input should be a valid string",
        "line 5: providers.a.weight is no setting",
        'line 7: providers."b\\nc": a name has letters, digits, dots, dashes, underscores, at most 63',
        'line 9: providers."b\\nc".api_key: must be env:NAME or file:PATH: a key has no place in this file',
        'line 12: models."x*y": must be a name, or a prefix with one * at its end',
        'line 14: models."x*y".targets[0].weight: Input should be greater than or equal to 1',
        'line 15: models."x*y".targets[1].colour is no setting',
        'line 20: models.ok.targets[1].provider "none" is none of: "a", "b\\nc"',
        'line 22: models.ok.fallback[0].provider "neither" is none of: "a", "b\\nc"',
        "line 23: models.ok.price says nothing",
        "line 26: models.more.targets[1].provider is missing",
    ]


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("", "line 1: providers is missing: at least one [providers.NAME]"),
        ("providers = {}", "line 1: providers is missing: at least one [providers.NAME]"),
        ("a = 1\na = 2", "line 2: Cannot overwrite a value (at end of document)"),
        ("[a]\n\n[a]", "line 3: Cannot declare ('a',) twice (column 3)"),
        ("\ufeff" + LEAST, "line 1: Invalid statement (column 1)"),
        ("a = [", "line 1: Invalid value (at end of document)"),
        ("x = 1\nkey sk-secret", None),
        ("x = " + "[" * 5000 + "]" * 5000, "the file is nested too deeply"),
        ("providers.p." + "a." * 5000 + "a = 1", "the file is nested too deeply"),
        ("x = " + "9" * 5000, "the file has a number that is too long"),
        ("x = 1e9999999999999999999", "the file has a number that is too long"),
    ],
)
def test_what_cannot_be_read_is_told(text: str, mistake: str | None) -> None:
    """As its reader says, and nothing of the text itself."""
    (told,) = mistakes(text)
    assert mistake is None or told == mistake
    assert "secret" not in told


@pytest.mark.parametrize("providers", ["providers = 5", "[[providers]]\nname = 'a'", "providers = ['a']"])
def test_kinds_that_are_no_tables_are_told(providers: str) -> None:
    """However the rest may look."""
    text = f"{providers}\n[models.m]\ntargets = [{{ provider = 'a' }}]\n"
    assert mistakes(text) == ["line 1: providers must be tables: [providers.NAME]"]
    assert mistakes("models = 1\n" + LEAST) == ["line 1: models must be tables: [models.NAME]"]
    assert mistakes(LEAST + "[models]\nm = 1\n") == ["line 6: models.m must be a table"]


@pytest.mark.parametrize(
    ("field", "values"),
    [
        (
            "url",
            ["''", "'h'", "'ftp://h'", "'http://'", "'http://u:p@h'", "'http://:p@h'", "'http://h?a'", "'http://h#a'"],
        ),
        (
            "url",
            ["'http://h:99999'", "'http://h:0'", "'http://a b'", '"http://h/\\r\\nx: y"', "'https://api.example.com'"],
        ),
        ("connect_timeout_seconds", ["0", "-1", "inf", "nan", "'5'", "true", "86_401", "1e400", "1979-05-27"]),
        ("idle_timeout_seconds", ["0", "[]", "{}", "9" * 400]),
        ("keepalive_seconds", ["-0.1", "3601"]),
        ("formats", ["[]", "['images']", "'chat'", "[1]"]),
        ("max_tokens_field", ["'max_output_tokens'", "1"]),
        ("stream_usage", ["'yes'", "1"]),
        ("proxy", ["''", "'socks5://h'", "'http://h/path'", "1"]),
        ("ca_file", ["''", "1"]),
        ("api_version", ["''", "'a&b=c'", '"2024\\n"', "1"]),
        ("token_command", ["'az'", "[1]"]),
        ("api_key", ["''", "'sk-1'", "['env:A', 'sk-1']", "['env:A', 1]", "{ env = 'A' }", "1", "'env:'", "'env:A B'"]),
        ("api_key", ["'file:'", '"file:a\\nb"', "['env:A', 'env:B', 'env:A']", "[[]]", "'ENV:A'"]),
        ("preset", ["'none'", "1"]),
        ("odd", ["1"]),
    ],
)
def test_a_wrong_value_is_one_mistake_with_its_line(field: str, values: list[str]) -> None:
    """Beside what is right; what was written is not repeated where it may be secret."""
    kind = "compatible" if field == "preset" else "azure"
    fields = {"type": f"'{kind}'", "url": "'https://r.openai.azure.com'", "api_key": "'env:K'"}
    for value in values:
        lines = [f"{name} = {each}" for name, each in {**fields, field: value}.items()]
        (told,) = mistakes("\n".join(["[providers.p]", *lines]))
        at = next(number for number, line in enumerate(lines, 2) if line.startswith(field))
        assert told.startswith(f"line {at}: providers.p.{field}"), value
        assert "sk-1" not in told
        assert "\n" not in told


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ("type = 'openai'", "line 1: providers.p.api_key is missing: env:NAME or file:PATH"),
        ("type = 'openai'\napi_key = []", "line 1: providers.p.api_key is missing: env:NAME or file:PATH"),
        ("url = 'http://h'", "line 1: providers.p.type is missing"),
        ("type = 'compatible'", "line 1: providers.p.url is missing: type compatible has no default"),
        ("type = 'azure'\napi_key = 'env:K'", "line 1: providers.p.url is missing: type azure has no default"),
        (
            "type = 'openai'\napi_key = 'env:K'\nurl = 'http://h'\napi_version = '1'",
            "line 5: providers.p.api_version is for type azure",
        ),
        ("type = 'openai'\ntoken_command = ['a']", "line 3: providers.p.token_command is for type azure"),
        (
            "type = 'anthropic'\npreset = 'vllm'\nurl = 'http://h'",
            "line 3: providers.p.preset is for type compatible",
        ),
        (
            "type = 'azure'\nurl = 'http://h'\napi_key = 'env:K'\ntoken_command = ['a']",
            "line 5: providers.p.token_command stands in place of api_key: remove one",
        ),
        (
            "type = 'anthropic'\napi_key = 'env:K'\nformats = ['messages', 'gemini', 'embeddings']",
            "line 4: providers.p.formats: type anthropic does not speak embeddings, gemini",
        ),
        ("type = 'compatible'\npreset = 'x'", None),
    ],
)
def test_what_does_not_go_together_is_told(fields: str, told: str | None) -> None:
    """Each by itself would be right."""
    (mistake,) = mistakes(f"[providers.p]\n{fields}\n")
    assert told in (None, mistake)


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("targets", ["[]", "5", "['p']", "{ provider = 'p' }"]),
        ("fallback", ["5", "[{}]", "[{ provider = 'p', model = '' }]", "[{ provider = 'p', weight = 1.0 }]"]),
        ("fallback", ["[{ provider = 'p', weight = 1001 }]", "[{ provider = 'p', concurrency = 0 }]"]),
        ("price", ["{}", "5", "{ input = -1 }", "{ input = inf }", "{ input = '1' }", "{ input = true }", "{ x = 1 }"]),
        ("odd", ["1"]),
    ],
)
def test_a_wrong_value_of_a_model_is_told(field: str, values: list[str]) -> None:
    """At its line."""
    for value in values:
        right = "" if field == "targets" else "targets = [{ provider = 'p' }]\n"
        (told,) = mistakes(
            f"[providers.p]\ntype = 'compatible'\nurl = 'http://h'\n[models.m]\n{right}{field} = {value}\n"
        )
        assert told.startswith(f"line {6 if right else 5}: models.m.{field}"), value


@pytest.mark.parametrize("pattern", ["", "a*b", "**", "a**", "x" * 257])
def test_a_pattern_has_one_star_at_its_end(pattern: str) -> None:
    """And a name that could be one."""
    (told,) = mistakes(f'{LEAST}[models."{pattern}"]\ntargets = [{{ provider = "openai" }}]\n')
    assert told.startswith("line 5: models.")
    assert told.endswith("must be a name, or a prefix with one * at its end")
    assert len(told) < 250


@pytest.mark.parametrize("name", ["str", "list[str]", "price", "a.b", "A-1_b"])
def test_any_name_is_told_as_it_is(name: str) -> None:
    """Whatever our reader calls its own things."""
    told = mistakes(f'[providers."{name}"]\ntype = "compatible"\nurl = 1\n')
    assert f"providers.{name}".replace(".a.b", '."a.b"').replace(".list[str]", '."list[str]"') in told[-1]


def test_prices_are_exact() -> None:
    """Not as floats have them."""
    text = f"{LEAST}[models.m]\ntargets = [{{ provider = 'openai' }}]\nprice = {{ output = 0.1234567890123456789 }}\n"
    (model,) = read_config(text).models
    assert model.price == {"output": Decimal("0.1234567890123456789")}


# ----------------------------------------------------------------------------------------- whatever is in the file

WORDS = st.sampled_from(
    [
        *(
            "[providers.p]\n",
            "[models.m]\n",
            "[[models.m.targets]]\n",
            "[providers]\n",
            "type",
            "url",
            "api_key",
            "price",
        ),
        *("targets", "provider", "formats", "weight", "=", "=", " = ", "\n", "\n", "\r\n", "#", "'", '"', '"""', "'''"),
        *("[", "]", "{", "}", ",", ".", "'p'", "'openai'", "'env:K'", "'http://h'", "1", "1.5", "1_0", "nan", "true"),
        *("\ufeff", "\u2028", "\\", "\x00", "\ud800", "1979-05-27", "1e999", "-", "*", "'*'"),
    ]
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.decimals()
    | st.text(max_size=5)
    | st.sampled_from(["env:K", "openai", "azure", "p", "http://h", "chat", "vllm"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text(max_size=3)
            | st.sampled_from(
                ["p", "m", "type", "url", "api_key", "preset", "targets", "provider", "price", "formats"]
            ),
            inner,
            max_size=4,
        )
    ),
)


def toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml(str(key))} = {toml(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + "".join(f"\\U{ord(each):08x}" for each in value) + '"'
    return "''" if value is None else str(value)


def read_or_told(text: str) -> None:
    try:
        assert isinstance(read_config(text), ProviderConfig)
        told = ["fine"]
    except ConfigMistakes as error:
        told = error.mistakes
    assert told
    assert all("\n" not in mistake for mistake in told)


@given(st.text(max_size=60) | st.lists(WORDS, max_size=30).map("".join))
def test_any_text_is_read_or_told(text: str) -> None:
    """Nothing else is raised."""
    read_or_told(text)


@given(
    st.dictionaries(st.text(max_size=3) | st.just("p"), VALUES, max_size=3) | VALUES,
    st.dictionaries(st.text(max_size=3) | st.just("m"), VALUES, max_size=3) | VALUES,
)
def test_any_tree_is_read_or_told(providers: Any, models: Any) -> None:
    """Whatever is where a table, a list or a text should be."""
    read_or_told(f"providers = {toml(providers)}\nmodels = {toml(models)}\n")


@given(
    st.text(st.characters(exclude_categories=["C"]), min_size=8), st.sampled_from(["api_key = {}", "api_key = [{}]"])
)
def test_a_key_in_the_file_is_never_repeated(secret: str, field: str) -> None:
    """It is told that it has no place there."""
    secret = f"sk-{secret}"
    (told,) = mistakes(f"[providers.p]\ntype = 'openai'\n{field.format(toml(secret))}\n")
    assert told == "line 3: providers.p.api_key: must be env:NAME or file:PATH: a key has no place in this file"


def test_all_kinds_of_tokens_may_have_a_price() -> None:
    """Those that costs are computed of."""
    names = Price.__struct_fields__
    text = ", ".join(f"{name} = {number}" for number, name in enumerate(names))
    config = read_config(
        f'[providers.a]\ntype="compatible"\nurl="http://x"\n[models.m]\n'
        f'targets=[{{ provider = "a" }}]\nprice = {{ {text} }}\n'
    )
    assert config.models[0].price == {name: Decimal(number) for number, name in enumerate(names)}
