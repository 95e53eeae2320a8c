"""Page of one image's history."""
