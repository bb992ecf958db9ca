"""Vector stores: what each offers, whichever engine is behind it."""
