"""Streams as providers send them, each with what it should cost: shapes from their documentation and from reports.

Texts are plain words, each of them one token in every vocabulary, so that a reader may count words.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

DONE = "[DONE]"


@dataclass(frozen=True)
class Transcript:
    """The data of each event of one stream. usage: what it tells; output_tokens: of its texts."""

    events: list[Any]
    usage: tuple[int, int]
    output_tokens: int
    prefix: str = ""

    def data(self, events: list[Any] | None = None) -> list[bytes]:
        """The events as they go over the wire."""
        return [
            f"{self.prefix}data: {event if isinstance(event, str) else json.dumps(event)}\n\n".encode()
            for event in (self.events if events is None else events)
        ]


def _usage(prompt: int, completion: int, **more: Any) -> dict[str, Any]:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        **more,
    }


def _chunks(head: dict[str, Any], deltas: list[dict[str, Any]], finish: str = "stop", **choice: Any) -> list[Any]:
    chunks = [{**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None, **choice}]} for delta in deltas]
    return [*chunks, {**head, "choices": [{"index": 0, "delta": {}, "finish_reason": finish, **choice}]}]


def _head(name: str, **more: Any) -> dict[str, Any]:
    return {"id": f"chatcmpl-{name}", "object": "chat.completion.chunk", "created": 1794000000, "model": name, **more}


_TWO = [{"role": "assistant", "content": ""}, {"content": " one"}, {"content": " two"}]

_openai = _head("gpt-4o-mini", service_tier="default", system_fingerprint="fp_1")
OPENAI = Transcript(
    [
        *[
            {**chunk, "usage": None, "obfuscation": "aB3"}
            for chunk in _chunks(
                _openai, [{"role": "assistant", "content": "", "refusal": None}, *_TWO[1:]], logprobs=None
            )
        ],
        {
            **_openai,
            "choices": [],
            "usage": _usage(
                21,
                17,
                prompt_tokens_details={"cached_tokens": 0, "audio_tokens": 0},
                completion_tokens_details={"reasoning_tokens": 10, "audio_tokens": 0},
            ),
        },
        DONE,
    ],
    (21, 17),
    2,
)

OPENAI_TOOLS = Transcript(
    [
        *_chunks(
            _openai,
            [
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [
                        {
                            "index": 0,
                            "id": "call_1",
                            "type": "function",
                            "function": {"name": "weather", "arguments": ""},
                        }
                    ],
                },
                {"tool_calls": [{"index": 0, "function": {"arguments": " one"}}]},
                {"tool_calls": [{"index": 0, "function": {"arguments": " two"}}]},
            ],
            "tool_calls",
        ),
        DONE,
    ],
    (0, 0),
    3,
)

_filtered = {"hate": {"filtered": False, "severity": "safe"}}
AZURE = Transcript(
    [
        {
            "choices": [],
            "created": 0,
            "id": "",
            "model": "",
            "object": "",
            "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": _filtered}],
        },
        *_chunks(_openai, _TWO, content_filter_results=_filtered),
        {
            "id": "",
            "object": "",
            "created": 0,
            "model": "",
            "choices": [{"index": 0, "finish_reason": None, "content_filter_offsets": {"check_offset": 4}}],
        },
        {**_openai, "choices": [], "usage": _usage(21, 2)},
        DONE,
    ],
    (21, 2),
    2,
)

VLLM = Transcript(
    [
        *_chunks(
            _head("qwen3"),
            [
                {"role": "assistant", "content": ""},
                {"reasoning": " one", "reasoning_content": " one"},
                {"content": " two", "tool_calls": []},
            ],
            logprobs=None,
            stop_reason=None,
            token_ids=None,
        ),
        {**_head("qwen3"), "choices": [], "usage": _usage(21, 2)},
        DONE,
    ],
    (21, 2),
    2,
)

OLLAMA = Transcript(
    [
        *_chunks(
            _head("llama3", system_fingerprint="fp_ollama"),
            [
                {"role": "assistant", "content": " one"},
                {"role": "assistant", "content": "", "reasoning": " two"},
                {
                    "role": "assistant",
                    "content": "",
                    "tool_calls": [
                        {"id": "c", "index": 0, "type": "function", "function": {"name": "weather", "arguments": {}}}
                    ],
                },
            ],
        ),
        {**_head("llama3"), "choices": [], "usage": _usage(21, 9)},
        DONE,
    ],
    (21, 9),
    4,
)

OPENROUTER = Transcript(
    [
        *_chunks(
            _head("x", provider="Anthropic"),
            [
                {
                    "role": "assistant",
                    "content": "",
                    "reasoning": " one",
                    "reasoning_details": [
                        {"type": "reasoning.text", "text": " one", "format": "anthropic-claude-v1", "index": 0}
                    ],
                },
                {"role": "assistant", "content": " two"},
            ],
            native_finish_reason=None,
            logprobs=None,
        ),
        {
            **_head("x", provider="Anthropic"),
            "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}],
            "usage": _usage(21, 8, cost=0.001, is_byok=False),
        },
        DONE,
    ],
    (21, 8),
    2,
    prefix=": OPENROUTER PROCESSING\n\n",
)

DEEPSEEK = Transcript(
    [
        *_chunks(
            _head("deepseek-reasoner"),
            [
                {"role": "assistant", "content": None, "reasoning_content": ""},
                {"content": None, "reasoning_content": " one"},
                {"content": " two", "reasoning_content": None},
            ],
            logprobs=None,
        ),
        {**_head("x"), "choices": [], "usage": _usage(21, 17, prompt_cache_hit_tokens=5, prompt_cache_miss_tokens=16)},
        DONE,
    ],
    (21, 17),
    2,
    prefix=": keep-alive\n\n",
)

MISTRAL = Transcript(
    [
        *_chunks(
            _head("magistral"),
            [
                {"role": "assistant", "content": ""},
                {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": " one"}], "closed": True}]},
                {"content": " two"},
            ],
        )[:-1],
        {
            **_head("magistral"),
            "choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": "stop"}],
            "usage": _usage(21, 3),
        },
        DONE,
    ],
    (21, 3),
    2,
)

GROQ = Transcript(
    [
        *_chunks(
            _head("gpt-oss-120b", x_groq={"id": "req_1"}),
            [
                {"role": "assistant", "channel": "analysis", "reasoning": " one"},
                {"channel": "final", "content": " two"},
            ],
            logprobs=None,
        )[:-1],
        {
            **_head("gpt-oss-120b"),
            "choices": [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}],
            "x_groq": {"id": "req_1", "usage": _usage(21, 6, queue_time=0.1)},
        },
        DONE,
    ],
    (21, 6),
    2,
)

XAI = Transcript(
    [
        {
            **_head("grok-4"),
            "choices": [{"index": 0, "delta": {"role": "assistant", "content": word}, "finish_reason": finish}],
            "usage": {
                "prompt_tokens": 32,
                "completion_tokens": n,
                "total_tokens": 32 + n + 94,
                "completion_tokens_details": {"reasoning_tokens": 94},
            },
        }
        for n, (word, finish) in enumerate([(" one", None), (" two", None), ("", "stop")], start=1)
    ]
    + [DONE],
    (32, 97),
    2,
)

GEMINI = Transcript(
    [
        {
            **_head("gemini-2.5-pro"),
            "choices": [{"index": 0, "delta": {"role": "assistant", "content": " one"}}],
            "usage": {"prompt_tokens": 21, "completion_tokens": 0, "total_tokens": 30},
        },
        {
            **_head("gemini-2.5-pro"),
            "choices": [
                {
                    "index": 0,
                    "delta": {
                        "role": "assistant",
                        "content": " two",
                        "extra_content": {"google": {"thought_signature": "c2lnbmF0dXJl"}},
                    },
                    "finish_reason": "stop",
                }
            ],
            "usage": {"prompt_tokens": 21, "completion_tokens": 4, "total_tokens": 40},
        },
        DONE,
    ],
    (21, 19),
    2,
)

COMPLETION = Transcript(
    [
        *[
            {
                "id": "cmpl-1",
                "object": "text_completion",
                "created": 1794000000,
                "model": "davinci-002",
                "choices": [{"index": 0, "text": word, "logprobs": None, "finish_reason": None}],
            }
            for word in (" one", " two")
        ],
        DONE,
    ],
    (0, 0),
    2,
)

ALL = {name.lower(): value for name, value in list(globals().items()) if isinstance(value, Transcript)}
"""Those of chat and completions."""


# ----------------------------------------------------------------------------------------------------------- responses

_MESSAGE = {"id": "msg_1", "type": "message", "role": "assistant"}
_CALL = {"id": "fc_1", "type": "function_call", "call_id": "call_1", "name": "weather"}
_PLACE = {"item_id": "msg_1", "output_index": 0, "content_index": 0}


def _response(status: str, output: list[Any], usage: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "id": "resp_1", "object": "response", "created_at": 1794000000, "status": status, "model": "gpt-4o-mini",
        "error": None, "incomplete_details": None, "instructions": "be kind", "output": output, "usage": usage,
    }  # fmt: skip


def _told(*events: dict[str, Any]) -> list[Any]:
    return [{**event, "sequence_number": number} for number, event in enumerate(events)]


def _spent(input_tokens: int, output_tokens: int, reasoning: int = 0) -> dict[str, Any]:
    return {
        "input_tokens": input_tokens,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": output_tokens,
        "output_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": input_tokens + output_tokens,
    }


def _text(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": []}


_SAID = {**_MESSAGE, "status": "completed", "content": [_text(" one two")]}
_CALLED = {**_CALL, "status": "completed", "arguments": " one two"}
_BEGUN = {"type": "response.created", "response": _response("in_progress", [])}

RESPONSE_TEXT = Transcript(
    _told(
        _BEGUN,
        {"type": "response.in_progress", "response": _response("in_progress", [])},
        {"type": "response.output_item.added", "output_index": 0, "item": {**_MESSAGE, "content": []}},
        {"type": "response.content_part.added", **_PLACE, "part": _text("")},
        {"type": "response.output_text.delta", **_PLACE, "delta": " one", "logprobs": [], "obfuscation": "aB3"},
        {"type": "response.output_text.delta", **_PLACE, "delta": " two", "logprobs": [], "obfuscation": "aB3"},
        {"type": "response.output_text.done", **_PLACE, "text": " one two", "logprobs": []},
        {"type": "response.content_part.done", **_PLACE, "part": _text(" one two")},
        {"type": "response.output_item.done", "output_index": 0, "item": _SAID},
        {"type": "response.completed", "response": _response("completed", [_SAID], _spent(21, 17, 10))},
    ),
    (21, 17),
    2,
)

RESPONSE_CALL = Transcript(
    _told(
        _BEGUN,
        {"type": "response.output_item.added", "output_index": 0,
         "item": {"id": "rs_1", "type": "reasoning", "summary": []}},
        {"type": "response.reasoning_summary_text.delta", "item_id": "rs_1", "output_index": 0, "summary_index": 0,
         "delta": " three"},
        {"type": "response.output_item.done", "output_index": 0,
         "item": {"id": "rs_1", "type": "reasoning", "summary": [{"type": "summary_text", "text": " three"}]}},
        {"type": "response.output_item.added", "output_index": 1, "item": {**_CALL, "arguments": ""}},
        {"type": "response.function_call_arguments.delta", "item_id": "fc_1", "output_index": 1, "delta": " one"},
        {"type": "response.function_call_arguments.delta", "item_id": "fc_1", "output_index": 1, "delta": " two"},
        {"type": "response.function_call_arguments.done", "item_id": "fc_1", "output_index": 1, "name": "weather",
         "arguments": " one two"},
        {"type": "response.output_item.done", "output_index": 1, "item": _CALLED},
        {"type": "response.completed", "response": _response("completed", [_CALLED])},
    ),
    (0, 0),
    4,
)  # fmt: skip

RESPONSE_WITHOUT_DELTAS = Transcript(
    _told(
        _BEGUN,
        {"type": "response.output_item.done", "output_index": 0, "item": _SAID},
        {"type": "response.incomplete", "response": _response("incomplete", [_SAID], _spent(21, 2))},
    ),
    (21, 2),
    2,
)

RESPONSE_AT_ONCE = Transcript(
    _told(_BEGUN, {"type": "response.completed", "response": _response("completed", [_SAID], _spent(21, 2))}),
    (21, 2),
    2,
)

RESPONSES = [RESPONSE_TEXT, RESPONSE_CALL, RESPONSE_WITHOUT_DELTAS, RESPONSE_AT_ONCE]


# ------------------------------------------------------------------------------------------------------------ messages


def _block(index: int, block: dict[str, Any], *deltas: dict[str, Any]) -> list[Any]:
    """One block: its beginning, its pieces, its end."""
    return [
        {"type": "content_block_start", "index": index, "content_block": block},
        *[{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas],
        {"type": "content_block_stop", "index": index},
    ]


def _message(blocks: list[Any], reason: str, prompt: dict[str, int], usage: dict[str, int]) -> list[Any]:
    begun: dict[str, Any] = {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-haiku-5-5", "content": [],
        "stop_reason": None, "stop_sequence": None, "usage": {**prompt, "output_tokens": 1},
    }  # fmt: skip
    return [
        {"type": "message_start", "message": begun},
        {"type": "ping"},
        *blocks,
        {"type": "message_delta", "delta": {"stop_reason": reason, "stop_sequence": None}, "usage": usage},
        {"type": "message_stop"},
    ]


_SPOKEN = [{"type": "text_delta", "text": " one"}, {"type": "text_delta", "text": " two"}]

MESSAGE_TEXT = Transcript(
    _message(
        _block(0, {"type": "text", "text": ""}, *_SPOKEN), "end_turn", {"input_tokens": 21}, {"output_tokens": 17}
    ),
    (21, 17),
    2,
)

MESSAGE_CALL = Transcript(
    _message(
        [
            *_block(
                0,
                {"type": "thinking", "thinking": "", "signature": ""},
                {"type": "thinking_delta", "thinking": " three"},
                {"type": "signature_delta", "signature": "AbC="},
            ),
            *_block(1, {"type": "text", "text": ""}, *_SPOKEN),
            *_block(
                2,
                {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {}},
                {"type": "input_json_delta", "partial_json": " four"},
            ),
        ],
        "tool_use",
        {"input_tokens": 1, "cache_creation_input_tokens": 10, "cache_read_input_tokens": 10},
        {"output_tokens": 40},
    ),
    (21, 40),
    5,
)

MESSAGES = [MESSAGE_TEXT, MESSAGE_CALL]


def _generated(
    *parts: dict[str, Any], reason: str | None = None, usage: dict[str, int] | None = None
) -> dict[str, Any]:
    ended = {} if reason is None else {"finishReason": reason}
    candidate = {"content": {"parts": list(parts), "role": "model"}, "index": 0, **ended}
    told = {} if usage is None else {"usageMetadata": usage}
    return {"candidates": [candidate], **told, "modelVersion": "gemini-2.5-flash", "responseId": "r1"}


GEMINI_TEXT = Transcript(
    [
        _generated({"text": " one"}, usage={"promptTokenCount": 21, "candidatesTokenCount": 1, "totalTokenCount": 29}),
        _generated(
            {"text": " two"},
            reason="STOP",
            usage={"promptTokenCount": 21, "candidatesTokenCount": 2, "totalTokenCount": 38, "thoughtsTokenCount": 15},
        ),
    ],
    (21, 17),
    2,
)

GEMINI_TOOLS = Transcript(
    [
        _generated({"text": " three", "thought": True}),
        _generated({"functionCall": {"name": "weather", "args": {"a": " one"}}, "thoughtSignature": "c2ln"}),
        _generated({"executableCode": {"language": "PYTHON", "code": " two"}}),
        _generated({"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": " four"}}),
        _generated({"text": ""}, reason="STOP"),
    ],
    (0, 0),
    8,
)

GEMINI_USAGE_LAST = Transcript(
    [
        _generated({"text": " one"}),
        _generated({"text": " two"}, reason="MAX_TOKENS"),
        {"usageMetadata": {"promptTokenCount": 20, "toolUsePromptTokenCount": 1, "candidatesTokenCount": 2}},
    ],
    (21, 2),
    2,
)

GEMINI_OWN = [GEMINI_TEXT, GEMINI_TOOLS, GEMINI_USAGE_LAST]


# --------------------------------------------------------------------------------------------------- images and speech

_ENCODED = "iVBORw0KGgo" * 20

IMAGE = Transcript(
    [
        {"type": "image_generation.partial_image", "b64_json": _ENCODED, "partial_image_index": 0},
        {"type": "image_generation.completed", "b64_json": _ENCODED, "usage": _spent(9, 272)},
    ],
    (9, 272),
    0,
)
IMAGE_WITHOUT_USAGE = Transcript([{"type": "image_generation.completed", "b64_json": _ENCODED}], (0, 0), 0)
IMAGES = [IMAGE, IMAGE_WITHOUT_USAGE]

SPOKEN = [
    Transcript(
        [
            {"type": "speech.audio.delta", "audio": _ENCODED},
            {"type": "speech.audio.delta", "audio": _ENCODED},
            {"type": "speech.audio.done", "usage": {"input_tokens": 4, "output_tokens": 30, "total_tokens": 34}},
        ],
        (4, 30),
        0,
    )
]

# ------------------------------------------------------------------------------------------------- audio transcriptions

TRANSCRIPT_TEXT = Transcript(
    [
        {"type": "transcript.text.delta", "delta": " one", "logprobs": [{"token": " one", "logprob": -0.1}]},
        {"type": "transcript.text.delta", "delta": " two"},
        {
            "type": "transcript.text.done",
            "text": " one two",
            "usage": {
                "type": "tokens", "input_tokens": 21, "input_token_details": {"audio_tokens": 21, "text_tokens": 0},
                "output_tokens": 17, "total_tokens": 38,
            },
        },
    ],
    (21, 17),
    2,
)  # fmt: skip
TRANSCRIPT_DIARIZED = Transcript(
    [
        {"type": "transcript.text.delta", "delta": " one", "segment_id": "seg_0"},
        {"type": "transcript.text.delta", "delta": " two", "segment_id": "seg_0"},
        {
            "type": "transcript.text.segment",
            "id": "seg_0",
            "start": 0.0,
            "end": 1.2,
            "speaker": "A",
            "text": " one two",
        },
        {"type": "transcript.text.segment", "id": "seg_1", "start": 1.2, "end": 2.0, "speaker": "B", "text": " three"},
        {"type": "transcript.text.done", "text": " one two three four", "usage": {"type": "duration", "seconds": 2.0}},
    ],
    (20, 0),
    4,
)
TRANSCRIPTS = [TRANSCRIPT_TEXT, TRANSCRIPT_DIARIZED]
