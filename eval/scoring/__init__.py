"""From vectors to scores: ranks, metrics, statistics, chance."""
