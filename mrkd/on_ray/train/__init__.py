"""Training fleets on Ray."""
