"""Forms in multipart/form-data, as far as SDKs send them."""

from __future__ import annotations

from dataclasses import dataclass
from email import policy
from email.parser import BytesParser
from typing import Any


@dataclass(frozen=True)
class File:
    """A file of a form."""

    name: str
    type: str
    content: bytes


def form_of(content_type: str, raw: bytes) -> tuple[dict[str, Any], dict[str, File]]:
    """The fields and the files of a form, by their names; `a[b]` is the field `b` of `a`."""
    head = f"content-type: {content_type}\r\n\r\n".encode("latin-1")
    message = BytesParser(policy=policy.HTTP).parsebytes(head + raw)
    fields: dict[str, Any] = {}
    files: dict[str, File] = {}
    for part in message.iter_parts():
        name = str(part.get_param("name", "", "content-disposition"))
        content = part.get_payload(decode=True)
        data = content if isinstance(content, bytes) else b""
        filename = part.get_filename()
        if filename is not None:
            files[name] = File(filename, part.get_content_type(), data)
            continue
        outer, _, inner = name.partition("[")
        if inner:
            fields.setdefault(outer, {})[inner.rstrip("]")] = data.decode()
        else:
            fields[name] = data.decode()
    return fields, files
