"""From an image to named results."""
