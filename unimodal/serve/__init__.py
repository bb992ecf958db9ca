"""The HTTP server: embeddings in the wire formats that clients know, search, and the page."""
