"""Measures Sentinel beside nginx on this machine (`make bench`); docs/performance.md has the method and the figures.

Words
  subject    what is measured, alone on the first core: nginx as a plain proxy, or Sentinel with everything on
  rest       provider, Zion (static answers of one nginx), Valkey and the load, on all other cores
  round      one subject under one load for some seconds; subjects take turns, the figure is the median of rounds

Files, from the bottom up
  machine.py        cores, processes, CPU time and memory from /proc
  messages.py       the requests and answers that everybody sends here, as bytes
  servers.py        nginx (upstream and proxy), Valkey, Sentinel as processes
  wrk.py            closed-loop load: as fast as it goes
  steady.py         open-loop load: at a fixed rate, latency from the moment a request was due
  stream_server.py  a provider that streams, very cheaply; stream_client.py opens streams and times their chunks
  rig.py            all of these, started once for a scenario
  scenarios.py      what is measured: throughput, latency, streams, prompts, workers, start
  profile.py        where the microseconds go: `python -m bench.profile`
  report.py         the table, the JSON; pictures.py: the SVGs
  __main__.py       the command
"""
