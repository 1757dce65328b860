"""The door to translation: a client's format and a provider's in, what translates between them out.

Only where no target of a model speaks the client's format is anything translated (DESIGN section 9). Which fields are
carried, and which are refused, is in docs/translation.md; why the pairs are our own in docs/adr/.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from msgspec import Struct

from sentinel.proxy.translation.chat_to_gemini import ChatToGemini
from sentinel.proxy.translation.chat_to_messages import ChatToMessages
from sentinel.proxy.translation.messages_to_chat import MessagesToChat
from sentinel.proxy.translation.pair import Translation
from sentinel.proxy.translation.responses_to_chat import ResponsesToChat

_PAIRS: Final[dict[tuple[str, str], Callable[[bytes, int], Translation]]] = {
    ("chat", "messages"): ChatToMessages,
    ("messages", "chat"): MessagesToChat,
    ("responses", "chat"): ResponsesToChat,
    ("chat", "gemini"): ChatToGemini,
}


class Translator(Struct, frozen=True):
    """Translates requests of clients of one format for providers of another.

    name: as the header `x-sentinel-translated` has it, such as `chat->messages`. provider_format: the latter of these.
    """

    name: str
    provider_format: str
    translated: Callable[[bytes, int], Translation]

    @classmethod
    def of(cls, client_format: str, provider_format: str) -> Translator | None:
        """The translator between two formats, as endpoints call them; None where there is none."""
        pair = _PAIRS.get((client_format, provider_format))
        return None if pair is None else cls(f"{client_format}->{provider_format}", provider_format, pair)

    def request(self, body: bytes, now_seconds: int) -> Translation:
        """A request in the provider's format, and what translates its answer. body: JSON, with the target's model.

        now_seconds: since the epoch, for answers that tell when they were made and providers that do not.
        Raises UnsupportedParameter, which names the field that cannot be carried over; InvalidJson, MissingParameter.
        It is read and written whole, 1 MB in 1 to 3 ms, so what is larger is work for a thread.
        """
        return self.translated(body, now_seconds)
