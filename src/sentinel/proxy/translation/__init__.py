"""Requests, answers and streams from one format into another, for models of which no target speaks the client's.

`pair.py` has what each pair of formats offers; `sentinel.proxy.translate` is the door, and the only module that others
import. A pair is two files: `chat_to_messages.py` makes a request in Anthropic's format of one in chat's,
`chat_of_messages.py` makes an answer in chat's format of one in Anthropic's.

Requests are read by an allow-list (`strict.py`): a field, or a value, that has no place in the other format is refused
and named. What is left out all the same changes nothing of what the model is asked; docs/translation.md lists it.
Answers are read as loosely as providers write them.

Deliberately absent: a format between the formats (each pair is read in one sitting), a model's name (the caller has put
the target's into the body), and anything that is billed: that is read from the provider's own bytes.
"""
