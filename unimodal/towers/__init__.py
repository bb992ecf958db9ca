"""The two towers: image.py, text.py, and how their token states become one vector (pooling.py)."""
