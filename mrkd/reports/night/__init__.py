"""Page of a night."""
