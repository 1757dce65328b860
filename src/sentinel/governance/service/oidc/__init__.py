"""Tokens of an OpenID Connect issuer: who somebody is, by the word of a company's own login.

Words: the *issuer* signs tokens (JWTs) and publishes its keys as a *JWKS*, whose address its *discovery* document
has; a *claim* is one thing that a token says; an *identity* is what its claims come to.

Rules: `identity.py` reads claims and `jwks.py` keys, and both decide only. `discovery.py` fetches, `key_cache.py` keeps
what was fetched, `issuer.py` puts them together. Nothing is ever fetched from an address that a token names (`jku`,
`x5u`), and nothing of a token comes into a log. A token that is no good is `TokenRefused`. Where the keys cannot be
had, nobody knows whether it is, and that is `IssuerUnavailable`.

Deliberately absent: logging in (no redirects, no client secret, no `userinfo`), opaque tokens, symmetric algorithms.
Sources: OpenID Connect Discovery 1.0, RFC 7515 to 7519, RFC 8725 (best current practices), RFC 9068 (`at+jwt`).
"""
