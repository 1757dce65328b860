"""A provider's stream in the format of the client: each event is translated as it comes (proxy/translate.py)."""

from __future__ import annotations

from collections.abc import Callable

from sentinel.proxy.chunk import TakeChunk
from sentinel.proxy.provider import ProviderAnswer, ProviderStream
from sentinel.proxy.translate import Translator
from sentinel.proxy.translation.pair import Translation


def told_of(translator: Translator) -> bytes:
    """The header that says so, as it goes over the wire."""
    return b"x-sentinel-translated: %b\r\n" % translator.name.encode()


def translated_answer(answer: ProviderAnswer, translator: Translator, translation: Translation) -> ProviderAnswer:
    """A whole answer in the client's format. Raises UpstreamError for what cannot be read."""
    body = translation.answer(answer.status, answer.body)
    return ProviderAnswer(answer.status, answer.header_lines + told_of(translator), answer.id, body)


class TranslatedStream:
    """A ProviderStream. counted_input: tokens, for clients that are told them first."""

    def __init__(
        self, stream: ProviderStream, translator: Translator, translation: Translation, counted_input: int
    ) -> None:
        self.status, self.id, self.redactor = stream.status, stream.id, stream.redactor
        self.header_lines = stream.header_lines + told_of(translator)
        self._translator = translator
        self._translation = translation
        self._events = translation.stream(counted_input)
        self._stream = stream
        self._peeked = b""
        self._is_over = False

    async def read(self) -> bytes | None:
        """As ProviderStream's."""
        data, self._peeked = self._peeked, b""
        while not data:
            if self._is_over:
                return None
            came = await self._stream.read()
            data = self._events.end() if came is None else self._events.feed(self.redactor.plain(came))
            # Behind the client's last event nothing is waited for.
            self._is_over = came is None or self._events.ended
        return data

    async def flow(self, take: Callable[[bytes], bytes | None], _: TakeChunk | None = None) -> bytes | None:
        """As ProviderStream's."""
        while (data := await self.read()) is not None:
            if (rest := take(data)) is not None:
                return rest
        return None

    async def peek(self) -> bytes:
        """As ProviderStream's."""
        if not self._peeked:
            self._peeked = await self.read() or b""
        return self._peeked

    async def whole(self) -> ProviderAnswer:
        """As ProviderStream's."""
        return translated_answer(await self._stream.whole(), self._translator, self._translation)

    def close(self) -> None:
        """As ProviderStream's."""
        self._stream.close()
