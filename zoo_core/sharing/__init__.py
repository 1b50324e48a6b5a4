"""Saved models on the Hugging Face hub."""
