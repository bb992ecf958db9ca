"""The engine: from many small requests to few large forward passes."""
