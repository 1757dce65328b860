"""How bytes travel to a provider: HTTP/1.1, and forward proxies on the way."""
