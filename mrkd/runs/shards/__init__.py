"""Shards of a night: read, scored and committed in passes; those that crash processes apart."""
