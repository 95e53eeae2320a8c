"""Page of an ablation."""
