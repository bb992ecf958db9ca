"""What happens to an image and a text before a tower sees them: one spec for training, evaluation
and serving.
"""
