"""The input tokens of a request in Anthropic's messages format: an estimate, since no formula is published.

Claude's vocabulary is not published either. Text is counted in OpenAI's; what comparisons of the two have found, and
then the provider's own figures, correct it (input_ratio.py), and its `usage` replaces it in the books.
"""

from collections.abc import Iterable
from math import ceil
from typing import Final

import msgspec

from sentinel.tokens.bpe import Count, count_for
from sentinel.tokens.image_size import Size, inline_size
from sentinel.tokens.request import Block, Source, Turns
from sentinel.tokens.tools import json_text

_REPLY_FRAME: Final = 3
_TURN_FRAME: Final = 4
"""Around a message: the line of its role, as the bills of short prompts show (`Hello` alone costs 8)."""

_TOOLS_FRAME: Final = 346
"""The system prompt that comes with tools. Source: Anthropic's guide "Tool use", "Pricing"; for the choice `auto`."""
_BUILT_IN_TOOL: Final = 735
"""A tool that has no schema here, for Anthropic has it. Source: the same, of the largest (computer use)."""

_PIXELS_PER_TOKEN: Final = 750
_MOST_IMAGE_TOKENS: Final = 1_600
"""An image costs width * height / 750; a larger one is scaled down. Source: Anthropic's guide "Vision"."""

_BYTES_PER_DOCUMENT_TOKEN: Final = 16
_LEAST_DOCUMENT_TOKENS: Final = 3_000
"""A page of a PDF costs 1,500 to 3,000 tokens (Anthropic's guide "PDF support"), and few pages take less than 50 KB."""

_BYTES_PER_UNREADABLE_TOKEN: Final = 4
"""Thinking that only the provider can read, in base64."""

_MOST_DEPTH: Final = 3
"""Blocks within blocks: a document in a tool's result has blocks. Each depth is read anew, so there must be few."""

_blocks = msgspec.json.Decoder(list[Block])


def message_tokens(request: Turns, model: str) -> int:
    """Return the estimated input tokens of messages, system prompt, tools and the schema of the answer.

    Text is exact where the model's vocabulary is OpenAI's, as with gateways that serve their models in this format.
    """
    text, fixed = _Sum(count_for(model)), _REPLY_FRAME
    if request.system is not None:
        fixed += text.content(request.system)
    for turn in request.messages:
        fixed += _TURN_FRAME + text.content(turn.content)
    for tool in request.tools or ():
        # One without a schema is the provider's own.
        fixed += 0 if b'"input_schema"' in bytes(tool) else _BUILT_IN_TOOL
        text.json(tool)
    text.json(request.output_config)
    text.json(request.output_format)
    return fixed + (_TOOLS_FRAME if request.tools else 0) + text.tokens


class _Sum:
    """Adds up text; the methods return what costs a number of its own."""

    def __init__(self, count: Count) -> None:
        self._count = count
        self._depth = 0
        self.tokens = 0

    def content(self, content: str | Iterable[Block]) -> int:
        """A text, or blocks."""
        if isinstance(content, str):
            self.tokens += self._count(content)
            return 0
        return sum(self.block(block) for block in content)

    def block(self, block: Block) -> int:
        """Whatever a block carries is counted, whatever its `type` says: a wrong `type` must not make text free."""
        for text in (block.text, block.thinking, block.name):
            if text:
                self.tokens += self._count(text)
        for raw in (block.title, block.context, block.input):
            self.json(raw)
        fixed = len(block.data) // _BYTES_PER_UNREADABLE_TOKEN + self.inner(block.content)
        source = block.source
        if isinstance(source, Source):
            fixed += self.source(source, block.type)
        elif source:
            self.tokens += self._count(source)
        return fixed

    def inner(self, raw: msgspec.Raw) -> int:
        """What a block holds: a text, blocks, or what only the provider knows, which counts as the JSON that it is."""
        blocks = self._blocks_in(raw)
        if blocks is None:
            self.json(raw)
            return 0
        self._depth += 1
        try:
            return self.content(blocks)
        finally:
            self._depth -= 1

    def _blocks_in(self, raw: msgspec.Raw) -> list[Block] | None:
        """Those that a block holds; None where it holds something else."""
        if self._depth == _MOST_DEPTH or bytes(memoryview(raw)[:1]) != b"[":
            return None
        try:
            return _blocks.decode(raw)
        except (msgspec.DecodeError, RecursionError):
            return None

    def source(self, source: Source, kind: str) -> int:
        """An image, a document as text or blocks, or one that cannot be looked into."""
        data = source.data or ""
        if source.type == "text":
            return self.content(data)
        fixed = self.inner(source.content)
        if kind == "image":
            return fixed + _image_tokens(inline_size(f"data:{source.media_type};base64,{data}") if data else None)
        if source.type == "content":
            return fixed
        return fixed + max(_LEAST_DOCUMENT_TOKENS, len(data) // _BYTES_PER_DOCUMENT_TOKEN)

    def json(self, raw: msgspec.Raw) -> None:
        """JSON as it is, but for white space."""
        if raw not in _NOTHING:
            self.tokens += self._count(json_text(raw))


_NOTHING: Final = (msgspec.Raw(), msgspec.Raw(b"null"))


def _image_tokens(size: Size | None) -> int:
    """The tokens of an image; the most there can be for one whose size is not known here."""
    if size is None:
        return _MOST_IMAGE_TOKENS
    return min(_MOST_IMAGE_TOKENS, ceil(size.width * size.height / _PIXELS_PER_TOKEN))
