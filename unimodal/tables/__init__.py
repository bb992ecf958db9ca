"""What a table's rows hold: the texts, the image and the id that every command reads in the same
way.
"""
