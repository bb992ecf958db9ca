"""The search page and the reference page."""
