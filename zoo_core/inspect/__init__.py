"""Looking into a built model without changing it."""
