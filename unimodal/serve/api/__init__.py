"""The routes, one module per shape of body, and what they share."""
