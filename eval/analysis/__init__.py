"""What is looked at beside the plain scores."""
