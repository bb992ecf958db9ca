"""Filters: their tree, their text form, and their check against a store's fields."""
