"""Plugins found and loaded, their catalogues, and what a name stands for. No torch."""
