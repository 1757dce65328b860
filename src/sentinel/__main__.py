"""`python -m sentinel` is the command `sentinel`."""

from sentinel_start import entry

entry()
