"""The checks, one file a subject; ``all_checks`` has them all in order."""
