"""All that puts a number on a model. Installed as `unimodal.eval`."""
