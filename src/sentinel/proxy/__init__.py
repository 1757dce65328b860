"""The way of one request, from its first byte to its usage record.

Read `exchange.py` first: identify, parse, count, reserve, forward, relay, settle, top to bottom. `body.py` reads and
changes request bodies, `sse.py` and `meter.py` take a stream's bytes apart without changing them, `headers.py` says
which headers pass, `provider.py` is the port to a provider and `openai.py` the one that speaks to OpenAI.
"""
