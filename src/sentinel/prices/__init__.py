"""Prices: what a request costs in money.

A *price* is what a model's tokens cost, in US dollars for a million; a kind of tokens that it does not name costs what
the kind above it costs. A *cost* is in whole micro-USD (millionths of a dollar), rounded up once for each request: what
costs anything is never nothing, and no sum of many is below the bill. *Rates* are a price as integers. A *tier* is a
price from a length of the input on, and holds for all tokens of the request then.

Where it comes from, the first that there is: a price of the operator's own; the figure that the provider tells with its
usage (OpenRouter, Perplexity); genai-prices' data (`genai_prices.jsonl`, which `make prices` writes). A price that is
not known is None, and never a guess: a provider that the data does not know has none.

Deliberately absent: what is not tokens (searches, storage, minutes of sound, single requests), and the discounts and
surcharges of service tiers and batches. Source: docs/prices.md.
"""
