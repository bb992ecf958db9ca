"""Vector stores: the abstract store, its engines, and copies from one to another."""
