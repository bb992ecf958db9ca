"""What happens to an image and a text before a tower sees them, in every program."""
