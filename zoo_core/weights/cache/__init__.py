"""The cache on disk, its care, and the ways in and out of it that need no network."""
