"""Surgery on any built model, driven only by its anatomy: heads, freezing, splitting."""
