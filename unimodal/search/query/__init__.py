"""Queries by words, image or item; merged ranked lists; groups; near-duplicates."""
