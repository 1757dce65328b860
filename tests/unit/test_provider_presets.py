"""What providers do by default."""

from __future__ import annotations

import re
from typing import get_args

import pytest

from sentinel.provider_config import FORMATS, MaxTokensField, ProviderType, read_config
from sentinel.provider_presets import PRESETS, TYPES, Preset, system_of

ALL = {**TYPES, **PRESETS}


def test_each_type_has_its_defaults() -> None:
    """And nothing else has."""
    assert set(TYPES) == set(get_args(ProviderType))
    assert not TYPES.keys() & PRESETS.keys()


@pytest.mark.parametrize("preset", ALL.values(), ids=ALL)
def test_what_they_do_can_be_said_in_the_file(preset: Preset) -> None:
    """Formats and fields that there are; a default is among what there may be."""
    assert set(preset.formats) <= set(preset.can_speak) <= set(FORMATS)
    assert preset.max_tokens_field in get_args(MaxTokensField)
    assert preset is TYPES["compatible"] or re.fullmatch(r"[a-z.-]+\.[a-z]+/[\w./-]+", preset.source + "/")


@pytest.mark.parametrize("name", PRESETS)
def test_each_preset_can_be_used(name: str) -> None:
    """With a URL where it has none, and a key where it needs one."""
    preset = PRESETS[name]
    text = f"[providers.p]\ntype = 'compatible'\npreset = '{name}'\n"
    text += "" if preset.url else "url = 'http://h/v1'\n"
    text += "api_key = 'env:K'\n" if preset.needs_key else ""
    (spec,) = read_config(text).providers
    assert spec.url == (preset.url or "http://h/v1")
    assert spec.formats == set(preset.formats)
    assert (spec.stream_usage, spec.renames_maximum) == (preset.stream_usage, not preset.knows_both)


def test_mistral_is_told_in_its_own_words() -> None:
    """It refuses what OpenAI takes."""
    mistral = PRESETS["mistral"]
    assert (mistral.stream_usage, mistral.max_tokens_field, mistral.knows_both) == (False, "max_tokens", False)


def test_each_has_its_name_in_traces() -> None:
    """That of the conventions for GenAI where they have one, else its own; what has neither is what it speaks."""
    types = {name: system_of(name, None) for name in TYPES}
    assert types == {
        "openai": "openai",
        "azure": "azure.ai.openai",
        "anthropic": "anthropic",
        "gemini": "gcp.gemini",
        "compatible": "openai",
    }
    assert [system_of("compatible", name) for name in ("mistral", "bedrock", "vertex", "groq", "vllm")] == [
        "mistral_ai", "aws.bedrock", "gcp.vertex_ai", "groq", "vllm",
    ]  # fmt: skip
    assert all(system_of("compatible", name) for name in PRESETS)
