"""Images prepared as the weights in use expect them."""
