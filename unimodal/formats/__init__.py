"""Other people's models as ours, one module a format."""
