"""What a task is made of, and reading it from what others lay out."""
