"""A shop of generated images, texts and queries to train on and to search, without a download."""
