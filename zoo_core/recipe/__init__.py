"""Saving a model that surgery has changed, and getting it back on another machine.

A save is a folder with two files: ``recipe.json``, which says how the model is built and what was done to it, for
people to read as well; and the tensors as safetensors, whose digest the recipe holds. Nothing is pickled.
"""
