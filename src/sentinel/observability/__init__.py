"""What operators see: metrics and the log.

`observer.py` is the port through which requests are watched; `metrics.py` and `request_log.py` implement it, and
`gauges.py` reads once a second what no request sets in passing. `logs.py` writes lines, whoever has said them.
Nothing in here waits on the way of a request, and no label or line has a prompt, a token, a key or an e-mail address.
"""
