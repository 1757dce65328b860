"""`TokenCounter`: the input tokens of a whole request."""

from collections.abc import Iterable, Sequence
from typing import Final

from sentinel.tokens.audio import audio_tokens
from sentinel.tokens.bpe import Count, count_for, count_in
from sentinel.tokens.delivered import DeliveredText
from sentinel.tokens.encoding import encoding_of
from sentinel.tokens.gemini import counted_tokens, embedded_tokens, generate_tokens
from sentinel.tokens.gemini_request import CountBody, EmbedBody, GenerateBody
from sentinel.tokens.images import url_tokens
from sentinel.tokens.loose import Text
from sentinel.tokens.messages import message_tokens
from sentinel.tokens.request import ChatRequest, Message, Part, Prompt, Turns
from sentinel.tokens.tools import call_tokens, definition_tokens, response_format_tokens
from sentinel.tokens.vocabulary import FAMILIES

# A body above this should be counted in a thread. The worst text (a run of dashes) takes 0.45 us a byte, so 6,000
# bytes and all else that is done in the same step stay well below 5 ms; ordinary text of this length takes 0.04 ms.
LARGE_PROMPT_BYTES: Final = 6_000

# Frames in tokens. Source: OpenAI cookbook, "How to count tokens with tiktoken", num_tokens_from_messages.
_REPLY_FRAME: Final = 3
_MESSAGE_FRAME: Final = 3
_NAME_FRAME: Final = 1
# A result is a little dearer in a `tool` message (community.openai.com/t/538914) and cheaper in a legacy `function`
# message (github.com/hmarr/openai-chat-tokens), both by the bill.
_ROLE_FRAMES: Final = {"tool": 1, "function": -2}
_FUNCTION_CALL_FRAME: Final = 3
# Each of these is one token in every encoding (a test says so), which saves a call per message.
_ONE_TOKEN_ROLES: Final = frozenset(("system", "developer", "user", "assistant", "tool", "function"))
# Roles that have nothing but content and a name.
_PLAIN_ROLES: Final = frozenset(("user", "system", "developer"))
# A file's text and pages are unknown here (PDF is compressed, `file_id` lies at the provider) and no formula is
# published. One page of text and its picture are near this; the provider's `usage` replaces it.
FILE_TOKENS: Final = 1_000
# A null prompt is the end-of-text token. Source: OpenAI API reference, "Create completion", prompt.
_NULL_PROMPT_TOKENS: Final = 1


def is_large(body_bytes: int) -> bool:
    """Say whether a body of so many bytes must be counted off the event loop. See LARGE_PROMPT_BYTES."""
    return body_bytes > LARGE_PROMPT_BYTES


class TokenCounter:
    """Counts tokens as OpenAI bills them. It keeps no state; one object serves every request and thread."""

    def count_text(self, text: str, model: str) -> int:
        """Return the tokens of a text, exactly.

        Special-token strings are ordinary text and lone surrogates are U+FFFD, as for OpenAI's API
        (tiktoken's `encode_ordinary`). The Rust Sentinel counted `<|endoftext|>` as one token.
        """
        return count_for(model)(text)

    def count_chat(self, request: ChatRequest, model: str) -> int:
        """Return the input tokens of a chat request: messages, tools, response format, images.

        Source: `num_tokens_from_messages` of OpenAI's cookbook for texts; tools.py and images.py name theirs.
        In the vocabulary of another family it is that family's frames around messages (vocabulary.py).
        """
        encoding = encoding_of(model)
        count = count_in(encoding)
        tokens = _REPLY_FRAME if encoding not in FAMILIES else _other_frames(request.messages, encoding)
        for message in request.messages:
            tokens += _message_tokens(message, count, model)
        if request.tools or request.functions:
            tokens += definition_tokens(request, count)
        if request.response_format:
            tokens += response_format_tokens(request.response_format, count)
        return tokens

    def count_prompt(self, prompt: Prompt, model: str, suffix: str | None = None) -> int:
        """Return the input tokens of a completions prompt: a text, texts, token ids, or arrays of token ids.

        Several prompts are billed one by one and not joined; `n` and `best_of` bill the prompt once.
        """
        count = count_for(model)
        tokens = count(suffix) if suffix else 0
        if prompt is None:
            return tokens + _NULL_PROMPT_TOKENS
        if isinstance(prompt, str):
            return tokens + count(prompt)
        return tokens + sum(_item_tokens(item, count) for item in prompt)

    def count_messages(self, request: Turns, model: str) -> int:
        """Return the input tokens of a request in Anthropic's messages format: an estimate, see messages.py."""
        return message_tokens(request, model)

    def count_gemini(self, body: GenerateBody | CountBody, model: str) -> int:
        """Return the input tokens of a request in Gemini's format: an estimate, see gemini.py."""
        return generate_tokens(body, model) if isinstance(body, GenerateBody) else counted_tokens(body, model)

    def count_embedded(self, bodies: Iterable[EmbedBody], model: str) -> int:
        """Return the input tokens of what is to be embedded, in Gemini's format: an estimate, see gemini.py."""
        return embedded_tokens(bodies, model)

    def count_generated(self, texts: Iterable[Text], model: str) -> int:
        """Return the output tokens of a whole answer that came without `usage`: every choice, every kind of text."""
        delivered = DeliveredText(model)
        delivered.feed(texts)
        return delivered.count()


def _other_frames(messages: Sequence[Message], family: str) -> int:
    """Return a family's frame of a reply, and what its frames of messages are more than OpenAI's, or less."""
    frames = FAMILIES[family].frames
    return frames.reply + sum(frames.around(message.role) - _MESSAGE_FRAME - 1 for message in messages)


def _item_tokens(item: str | int | list[int], count: Count) -> int:
    if isinstance(item, str):
        return count(item)
    return 1 if isinstance(item, int) else len(item)


def _message_tokens(message: Message, count: Count, model: str) -> int:
    role, content = message.role, message.content
    tokens = _MESSAGE_FRAME + (1 if role in _ONE_TOKEN_ROLES else count(role))
    if isinstance(content, str):
        tokens += count(content)
    elif content is not None:
        tokens += _parts_tokens(content, count, model)
    if message.name:
        tokens += count(message.name) + _NAME_FRAME
    if role in _PLAIN_ROLES:
        return tokens
    return tokens + _turn_tokens(message, count)


def _turn_tokens(message: Message, count: Count) -> int:
    """Return what only assistants and tools have: refusals, calls, results."""
    tokens = _ROLE_FRAMES.get(message.role, 0)
    if message.refusal:
        tokens += count(message.refusal)
    if message.tool_calls:
        tokens += call_tokens(message.tool_calls, count)
    call = message.function_call
    if call is not None:
        tokens += count(call.name or "") + count(call.arguments or "") + _FUNCTION_CALL_FRAME
    return tokens


def _parts_tokens(parts: Sequence[Part], count: Count, model: str) -> int:
    return sum(_part_tokens(part, count, model) for part in parts)


def _part_tokens(part: Part, count: Count, model: str) -> int:
    """Whatever a part carries is counted, whatever its `type` says: a wrong `type` must not make text free."""
    tokens = count(part.text) if part.text else 0
    if part.refusal:
        tokens += count(part.refusal)
    image = part.image_url
    if isinstance(image, str):
        tokens += url_tokens(image, part.detail, model)
    elif image is not None:
        tokens += url_tokens(image.url or "", image.detail or part.detail, model)
    if part.input_audio is not None:
        tokens += audio_tokens(part.input_audio.data or "")
    if part.file is not None:
        tokens += FILE_TOKENS + count(part.file.filename or "")
    return tokens
