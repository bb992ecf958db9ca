"""The engine turns many small requests into few large forward passes."""
