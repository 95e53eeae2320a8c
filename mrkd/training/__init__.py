"""Training of one category: inputs, fit, gate; fleets and searches."""
