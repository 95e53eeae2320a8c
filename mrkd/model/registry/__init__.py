"""Registry of model versions and their promotions."""
