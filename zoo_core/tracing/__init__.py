"""The anatomy of a module that no plugin declared, found by running it."""
