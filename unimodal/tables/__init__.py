"""Tables as inputs: rows, and their texts, images and ids, by one rule for all commands."""
