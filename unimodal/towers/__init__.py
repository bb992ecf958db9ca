"""The two towers of a model: one module per library that builds them, and pooling.py."""
