"""Stand-ins for the world around Sentinel: Zion, OpenAI and Redis, to develop and to test against.

These are real servers on real sockets. `sentinel dev` starts them for a developer who has neither a Zion nor an OpenAI
key; the tests start them to see what Sentinel truly sends, and to let the outside fail on command.

server      runs an ASGI app in its own thread; goes away abruptly and comes back on the same port
ports       a port that stays ours while a server is away, and until it has started
exchange    one HTTP request and its answer; knows when the client has left, can cut the connection
faults      what tests switch at run time: delay, status, garbage, silence, a cut connection
control     the routes below /_sim, for tests that live in another process
zion        speaks Zion's API; `accounts` keeps its users, `increments` checks what is reported, `jwt` issues tokens
openai      speaks OpenAI's API; `chat` reads a request, whose prompt has orders (`directive`), `reply` decides what is
            said and counts it, `validation` refuses what OpenAI refuses, `bodies` writes OpenAI's JSON and events
vendors     in which habits it does: those of OpenAI, or of another vendor
store       a real Valkey server that can be killed, paused and restarted with its data
simulators  both simulators with a demo user, ready to use
command     `sentinel dev`; `folder` keeps its data, token and log for one process at a time, `greeting` is what it says

Words: a *fault* hits every request until cleared and is set from the outside; a *directive* such as
`[[tokens=200 delay=0.01]]` stands in a prompt and concerns that one request, so concurrent tests share no state.
*Billed* is what OpenAI would charge, *applied* what Zion has added up: tests of exactness compare these two.

Rules: simulators are stricter than the real thing (a real Zion may forgive an old field; this one names it and
refuses), and they share no code with the parts of Sentinel that they check. Only `cli` and tests import this room.

Deliberately absent: TLS, persistence of the simulators, and any model that answers something sensible.
"""
