"""What an evaluation found, for people: in the terminal and as a page."""
