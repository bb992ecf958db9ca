"""How fast a training step and its parts are beside the libraries that others train with: `unimodal
bench`.
"""
