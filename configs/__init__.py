"""Recipes: YAML files, each one run that somebody may want to repeat (`unimodal train NAME`)."""
