"""The tier configuration of the Zion simulator: one model per tier, as the contract (1.6) shapes it."""

TIERS_CONFIG = {
    "version": "1",
    "updatedAt": "2026-01-20T00:00:00Z",
    "tiers": {
        tier: [
            {
                "provider": "openai",
                "model": model,
                "relativeCost": cost,
                "inputPricePerMillion": 0.15 * cost,
                "outputPricePerMillion": 0.6 * cost,
            }
        ]
        for tier, model, cost in (("simple", "gpt-4o-mini", 1), ("moderate", "gpt-4.1", 4), ("complex", "gpt-4o", 8))
    },
}
