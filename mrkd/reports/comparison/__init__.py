"""Page of two nights side by side."""
