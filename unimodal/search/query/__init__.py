"""Queries: by words, by an image, by an item, with filters; fusing ranked lists;
near-duplicates.
"""
