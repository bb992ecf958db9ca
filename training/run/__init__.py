"""What a run leaves on disk, and survives by."""
