"""Losses of a batch's vectors."""
