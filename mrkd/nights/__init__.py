"""Nightly scoring: archive, plan, shards, night, manifest; drift, alerts and reviews."""
