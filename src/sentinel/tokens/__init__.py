"""tokens: how many tokens a request holds and an answer delivered. A room that decides.

Words
  encoding   one of OpenAI's vocabularies (`cl100k_base`, `o200k_base`), chosen by model name
  count      exact tokens of a text, identical to OpenAI's own tiktoken (the oracle of the tests)
  formula    what OpenAI adds around texts: message frames, tools, images; each cites where it is published
  delivered  the text that really left for the client in a stream, whatever happened afterwards
  ceiling    the most output tokens a model can produce; the reservation when a client names no maximum

Files, from the bottom up
  models.py     model name -> table row (longest match); the only place that knows how names are compared
  encoding.py   model name -> encoding, and whether its counts are exact or an estimate
  vocabulary.py  other families' vocabularies, from packages that ship them; how they cut, what their chats add
  bpe.py        the one door to toktok; text in, number out, never raises
  request.py    what we decode of a client's body
  usage.py      the usage that a provider reports, put together from its pieces
  answer.py     what a provider's events and answers say; loose.py: the same where they have no shape that we know
  responses_input.py   a request to /v1/responses, and the chat that it is counted as
  responses_answer.py  what its events and answers say, each text once
  message_answer.py  the same of Anthropic's messages
  images.py     size of an inline image, and tokens of an image; audio.py: tokens of inline audio
  tools.py      tokens of tool definitions, tool calls and response formats
  counter.py    `TokenCounter`: a whole request; messages.py: one in Anthropic's format, an estimate
  input_ratio.py  what the provider's own figures are to our estimates, by model
  delivered.py  `DeliveredText`: a stream, counted as it passes, in bounded memory
  output.py     ceilings, and which models think before they speak

Rules
  - A special-token string in a client's text (`<|endoftext|>`) is ordinary text, as for OpenAI's API.
  - Texts are exact. Tools are exact on every published measurement. Images follow OpenAI's published formulas.
    Files, remote images, audio, and all that other models than OpenAI's read are estimates, but for texts in a
    vocabulary that is in use; the provider's `usage` replaces every count when it comes.
  - Nothing here raises on hostile text, sizes or schemas; only decoding raises (msgspec.DecodeError).
    A caller must also expect RecursionError from msgspec itself, on a body nested some thousand deep.

Absent on purpose: threads and event loops (the caller counts a body that `is_large` in a thread; counting
releases the GIL), caches of client text, and downloads: the vocabularies lie inside wheels.
"""
