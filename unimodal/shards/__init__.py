"""The format on disk: WebDataset tars with a sidecar index (write, index, read, sample, check),
here or elsewhere (find, storage, remote, cache)."""
