"""The hot path. Knows torch and triton only."""
