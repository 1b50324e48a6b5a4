"""What a plugin says of its models, as data that needs no torch: cards, anatomies, hooks, and how they are checked."""
