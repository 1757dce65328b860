"""What Sentinel speaks: `table.py` maps paths to handlers; the other files are the handlers, each a few lines.

The hot paths are bare ASGI callables; everything else is Starlette, which costs as much as the proxying (DESIGN,
section 2).
"""
