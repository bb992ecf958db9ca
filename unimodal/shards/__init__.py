"""The format on disk: WebDataset tars with a sidecar index (write.py, index.py, read.py, check.py)."""
