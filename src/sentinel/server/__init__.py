"""A client's connection: HTTP/1.1 in and out, its bounds and its end."""
