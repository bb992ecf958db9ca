"""Finding vectors again: an index of items in an embedded or a distributed store, and queries
against it.
"""
