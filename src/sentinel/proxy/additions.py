"""What Sentinel adds to a request, and what to do where a provider does not take it.

We ask for usage and, near a limit, for a maximum of output. Not every provider knows these fields, and no client should
hear of a field that it never sent: the request is sent once more without it, which is remembered for the model.
Where our maximum is more than the model can answer, it is sent without one, for that time: what the model can answer is
less than the user may have.
Source: DESIGN section 5; llxprt-code#114, hindsight#852.
"""

from __future__ import annotations

import re
from collections import OrderedDict

from msgspec.structs import replace

from sentinel.endpoints.endpoint import Changes

MOST_MODELS = 1000
"""Remembered; the one that was refused longest ago is asked anew."""

_USAGE, _MAXIMUM = "stream_options", "max_completion_tokens"
_LEGACY_MAXIMUM = "max_tokens"
_REFUSALS = (400, 422)
_TOO_LARGE = re.compile(rb"max_(?:completion_|output_)?tokens.{1,30}too large|supports at most|maximum context length")
"""How OpenAI, vLLM and SGLang say that a maximum is more than the model can answer (vllm#42474, vllm#20409)."""


class Additions:
    """Which of our fields the provider refuses, by model."""

    def __init__(self) -> None:
        self._refused: OrderedDict[str, tuple[str, ...]] = OrderedDict()

    def allowed(self, model: str, changes: Changes) -> Changes:
        """The changes without what was refused for this model before."""
        for name in self._refused.get(model, ()):
            changes = _without(name, changes)
        return changes

    def again(self, changes: Changes, status: int, answer: bytes) -> Changes | None:
        """What to try next where the provider has refused a field that only we added; None where it was not that."""
        if status not in _REFUSALS:
            return None
        fewer = changes
        if changes.adds_usage and _says(answer, _USAGE, "include_usage"):
            fewer = _without(_USAGE, fewer)
        if changes.adds_max and _TOO_LARGE.search(answer) is not None:
            fewer = replace(fewer, output_max=None, adds_max=False)
        elif changes.adds_max and changes.output_field == _MAXIMUM and _says(answer, _MAXIMUM):
            fewer = _without(_MAXIMUM, fewer)
        return None if fewer is changes else fewer

    def taken(self, model: str, changes: Changes) -> None:
        """The provider has answered a request with these changes, so what was left out is what it had refused."""
        if changes.left_out and self._refused.get(model) != changes.left_out:
            self._refused[model] = changes.left_out
            self._refused.move_to_end(model)
            if len(self._refused) > MOST_MODELS:
                self._refused.popitem(last=False)


def _without(name: str, changes: Changes) -> Changes:
    left_out = changes.left_out if name in changes.left_out else (*changes.left_out, name)
    if name == _USAGE:
        return replace(changes, ask_usage=False, adds_usage=False, left_out=left_out)
    if changes.output_field == _MAXIMUM:
        return replace(changes, output_field=_LEGACY_MAXIMUM, left_out=left_out)
    return changes


def _says(answer: bytes, *names: str) -> bool:
    return any(name.encode() in answer for name in names)
