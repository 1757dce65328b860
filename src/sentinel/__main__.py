"""`python -m sentinel` is the command `sentinel`."""

from sentinel.cli import entry

entry()
