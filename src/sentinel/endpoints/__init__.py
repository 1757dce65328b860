"""The formats that Sentinel meters. An `Endpoint` decides everything that differs between them.

An endpoint reads a request, counts its input, says how its output is bounded, changes the few fields that have to be
changed, meters its stream, reads its whole answer, ends a stream at a limit, and renders an error. It is pure: no
clock, no network, no state. What happens when is the exchange's affair (proxy/exchange.py); where a request goes is the
registry's (proxy/registry.py). Endpoints know no provider, and providers know no client.

`endpoint.py` is the interface; `chat.py` and `completions.py` are OpenAI's two oldest formats. They share
`openai_stream.py` (their events), and `answer_as_stream.py` (a whole answer for a client that was told to expect a
stream). `responses.py` has both of its own: `responses_stream.py`, and `responses_items.py` for what its last events
repeat. All share `json_body.py` (JSON read and changed with every other byte kept); `strict_json.py` refuses JSON that
two readers could take differently.

`messages.py` and `count_tokens.py` are Anthropic's formats. They share `anthropic.py` (its errors and headers, what a
request is read by), and `message_stream.py` has the events.

`generate_content.py`, `gemini_count.py` and `gemini_embeddings.py` are Gemini's formats. They share `gemini.py`: an
endpoint of these is made for each request, for the model and the form of the answer stand in its path and query.
`gemini_stream.py` has the events.
"""
