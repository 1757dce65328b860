"""A client's connection: HTTP/1.1 in and out, its bounds and its end.

One connection is a `HttpConnection` (connection.py): its `RequestReader` (protocol.py) makes requests out of bytes, by
the rules in head.py, and it serves them in order; each is a `ServedRequest` (request.py), which is what an application
gets. timeouts.py has every timer of a connection, half_close.py a client that sends nothing more, refusal.py what is
answered before an application is asked, upgrade.py a connection that goes on in another protocol.

The server around them is uvicorn's: serve.py (settings), listeners.py (sockets), process.py (signals, the end in good
order), workers.py (several processes), open_files.py (how many clients).

Absent: routes, tokens, limits, formats; TLS and HTTP/2, which are the load balancer's.
"""
