"""A shop that draws itself: images, texts and queries to train on and to search, with nothing
downloaded.
"""
