"""What the formats have in common whose requests may be forms: nothing of a body is changed, and a stream is marked."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from sentinel.endpoints.endpoint import UNCHANGED, Changes, Endpoint, OutputBound, R
from sentinel.endpoints.form import FORM, Form, is_form, read_form
from sentinel.endpoints.references import Reference
from sentinel.error import InvalidForm
from sentinel.proxy.meter import StreamMeter
from sentinel.tokens.usage import Usage


class MediaEndpoint(Endpoint[R]):
    """A format whose requests are sent on as they came, since no provider can be told a maximum of output."""

    marks_streams = True

    def changes(self, request: R, bound: OutputBound, output_max: int | None) -> Changes:  # noqa: ARG002
        """None: all that an answer can cost is reserved, or it is refused."""
        return UNCHANGED

    def changed(self, body: bytes, request: R, changes: Changes) -> bytes:  # noqa: ARG002
        """The client's own bytes."""
        return body

    def ending(self, request: R, meter: StreamMeter, usage: Usage) -> bytes:
        """Never asked where a stream is held to no limit."""
        raise NotImplementedError


class UploadEndpoint(MediaEndpoint[R]):
    """A format whose requests are forms. decided: the fields that are decided on, which may come once."""

    takes_forms = True
    decided: ClassVar[frozenset[str]] = frozenset()

    def read(self, body: bytes) -> R:  # noqa: ARG002
        """Only a form is taken. Raises InvalidForm."""
        raise InvalidForm(f"The request must be {FORM}, with a boundary in its Content-Type.", param="content-type")

    def read_typed(self, body: bytes, content_type: bytes) -> tuple[R, tuple[Reference, ...]]:
        """The request in a body of this type, and the provider's objects that it names. Raises what is wrong."""
        if not is_form(content_type):
            return super().read_typed(body, content_type)
        form = read_form(body, content_type, self.decided)
        return self.from_form(form), form.references(self.ids)

    @abstractmethod
    def from_form(self, form: Form) -> R:
        """The request that a form is. Raises InvalidType, MissingParameter."""
