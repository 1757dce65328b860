"""Measures Sentinel beside nginx on this machine (`make bench`); docs/performance.md has the method and the figures.

Words
  subject    what is measured, alone on the first core: nginx as a plain proxy, or Sentinel with everything on
  rest       provider, Zion (static answers of one nginx), Valkey and the load, on all other cores
  round      one subject under one load for some seconds; subjects take turns, the figure is the median of rounds

  stall      a time in which the machine itself stood still: neither ours nor nginx's doing
  set apart  what a stall has held up, which we do not answer for; each figure is told with it, too

Files, from the bottom up
  machine.py        cores, processes, CPU time and memory from /proc
  latency.py        decides: quantiles, and who was held up by a stall
  messages.py       the requests and answers that everybody sends here, as bytes
  servers.py        nginx (upstream and proxy), Valkey, Sentinel as processes
  watchers.py       a process on each core that notices stalls, and the proof that it notices nothing else
  wrk.py            closed-loop load: as fast as it goes
  steady.py         open-loop load: at a fixed rate, latency from the moment a request was due
  stream_server.py  a provider that streams, very cheaply; stream_client.py opens streams and times their chunks
  rig.py            all of these, started once for a scenario
  plan.py           how much is measured
  scenarios.py      what is measured: throughput, latency, prompts, users, workers, start
  streams.py        the same of streams: chunks in each format, ten thousand at once
  endpoints.py      the same of embeddings and of files
  profile.py        where the microseconds go: `python -m bench.profile`
  report.py         the table with its budgets, the JSON; pictures.py: the SVGs
  __main__.py       the command
"""
