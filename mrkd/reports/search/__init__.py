"""Page of a hyperparameter search."""
