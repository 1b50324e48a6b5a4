"""Helpers that know nothing of models: devices, random state, memory formats, arguments."""
