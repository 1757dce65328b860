"""OpenAI's formats beside text: images, audio, moderations; and a response's count of its input, and its compaction.

Each is planned as a whole (images.py, audio.py, beside.py), and then written piece by piece, as a directive says.
"""

from __future__ import annotations

import io
from math import ceil
from typing import TYPE_CHECKING, Any

from multipart import MultipartError, MultipartParser, parse_options_header

from sentinel.dev import audio, beside, images
from sentinel.dev.directive import BadDirective, Directive, find_directive
from sentinel.dev.generation import Billed
from sentinel.dev.plan import Asked, Plan
from sentinel.dev.validation import Refused, decode_body, missing

if TYPE_CHECKING:
    from collections.abc import Callable

    from sentinel.dev.exchange import Exchange

    Headers = Callable[[], list[tuple[str, str]]]

MODELS = (
    *("gpt-image-2", "gpt-image-1-mini", "dall-e-2", "whisper-1", "gpt-4o-transcribe", "gpt-4o-mini-transcribe"),
    *("gpt-4o-transcribe-diarize", "tts-1", "gpt-4o-mini-tts", "omni-moderation-latest"),
)
PLANS: dict[str, Callable[[Asked], Plan]] = {
    "/v1/images/generations": images.generation,
    "/v1/images/edits": images.edit,
    "/v1/images/variations": images.variation,
    "/v1/audio/transcriptions": audio.transcription,
    "/v1/audio/translations": audio.transcription,
    "/v1/audio/speech": audio.speech,
    "/v1/moderations": beside.moderation,
    "/v1/responses/input_tokens": beside.input_tokens,
    "/v1/responses/compact": beside.compaction,
}
_DEFAULT_MODELS = {"/v1/moderations": "omni-moderation-latest", "/v1/images/variations": "dall-e-2"}


async def serve(exchange: Exchange, models: frozenset[str], bills: Callable[[Billed], None], headers: Headers) -> None:
    """Answer a request to one of these paths. Raises Refused, Ordered."""
    asked = _asked(exchange)
    model = asked.fields.get("model") or _DEFAULT_MODELS.get(exchange.path)
    if model is None:
        raise missing("model")
    if model not in models:
        message = f"The model `{model}` does not exist or you do not have access to it."
        raise Refused(404, message, param="model", code="model_not_found")
    asked.fields["model"] = model
    asked.directive.check_status()
    plan = PLANS[exchange.path](asked)
    request_id = exchange.headers.get("x-request-id", "")
    bill = Billed(request_id, model, plan.prompt_tokens, 0, "running", stream=plan.streams, path=exchange.path)
    bills(bill)
    try:
        await _write(exchange, plan, asked.directive, bill, headers)
    finally:
        if bill.state == "running":
            bill.state = "cancelled"


def _asked(exchange: Exchange) -> Asked:
    content_type, options = parse_options_header(exchange.headers.get("content-type", ""))
    if content_type != "multipart/form-data":
        asked = Asked(exchange.path, decode_body(exchange.raw))
    else:
        asked = Asked(exchange.path, *_form(exchange.raw, options.get("boundary", "")))
    try:
        asked.directive = find_directive(asked.text)
    except BadDirective as mistake:
        raise Refused(400, str(mistake), code="bad_directive") from mistake
    return asked


def _form(raw: bytes, boundary: str) -> tuple[dict[str, Any], list[bytes]]:
    try:
        parts = list(MultipartParser(io.BytesIO(raw), boundary))
    except MultipartError as broken:
        raise Refused(400, "Could not parse multipart form") from broken
    fields = {part.name: part.value for part in parts if part.filename is None}
    for name in ("n", "partial_images"):
        if name in fields:
            fields[name] = int(fields[name])
    if "stream" in fields:
        fields["stream"] = fields["stream"] == "true"
    files = [part.raw for part in parts if part.filename is not None]
    for part in parts:
        part.close()
    return fields, files


async def _write(exchange: Exchange, plan: Plan, directive: Directive, bill: Billed, headers: Headers) -> None:
    if plan.whole is not None:
        if directive.hang_after is not None or (directive.delay and not await exchange.pause(directive.delay)):
            await exchange.pause(None)
            return
        bill.completion_tokens, bill.state = plan.completion_tokens, "complete"
        await exchange.answer(200, plan.whole, headers(), plan.content_type)
        return
    await exchange.begin(200, headers(), plan.content_type)
    for number, piece in enumerate(plan.pieces):
        if number and directive.delay and not await exchange.pause(directive.delay):
            return
        if number == directive.break_after:
            bill.state = "broken"
            await exchange.cut()
            return
        if number == directive.hang_after:
            await exchange.pause(None)
            return
        if not await exchange.writable():
            return
        # What has been made by then is billed, whoever leaves.
        bill.completion_tokens = ceil(plan.completion_tokens * (number + 1) / len(plan.pieces))
        await exchange.write(piece)
    bill.completion_tokens, bill.state = plan.completion_tokens, "complete"
    await exchange.end()
