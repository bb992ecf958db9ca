"""A shop that draws itself: pictures, texts and queries to train on and to search, with nothing
downloaded.
"""
