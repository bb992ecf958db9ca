"""The search page: static files that the server hands out."""
