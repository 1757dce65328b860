"""The built-in governance, for those without Zion: users, plans, keys and a ledger of usage in one database.

It is a process of its own (`sentinel governance serve`) that speaks Zion's HTTP contract, so the proxy has one code
path; commands (`sentinel governance ...`) work on the same database, with or without a running service.

Words: a *plan* says what its users may spend in a *period*, and which models they may use; a *key* is a token of ours;
an *increment* is one item of a usage report; the *ledger* has usage by user, model and day; *balances* are what users
have spent in their current period; a *notice* tells the proxies that something about a user has changed.

Layers: `periods`, `increments`, `api_keys`, `prices` decide; `schema` and `database` are the tables and how they are
reached; `ledger`, `directory`, `identity`, `notices`, `transfer` are what is done with them, each function in the
caller's transaction; `contract_api`, `admin_api` and `commands` are the three ways in.

All amounts are integers. All code is synchronous: an embedded database waits for a disk, and threads wait well.
"""
