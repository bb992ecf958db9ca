"""Analyses beside the plain scores."""
