"""The built-in governance, for those without Zion: `sentinel governance serve`. The proxy imports nothing of it."""
