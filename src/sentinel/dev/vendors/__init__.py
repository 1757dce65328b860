"""What differs between vendors who speak OpenAI's API: the habits of a simulated provider, one file for each vendor.

vendor      OpenAI, and with it all that a vendor does who says nothing else
altered     an answer of OpenAI's chat, changed piece by piece into another vendor's
azure, anthropic, gemini, openrouter, vllm
            one vendor each: where its paths are and who may ask, what it refuses and ignores, how it says an error

Rules: a habit has its source beside it, a document or a report. No vendor generates anything: what is said is made
where OpenAI's is made. Faults and directives hold for all of them; an error that these want is in the vendor's words.

Deliberately absent: prices, limits that a vendor would keep, and formats that Sentinel does not ask it for.
"""
