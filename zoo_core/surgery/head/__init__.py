"""Classifiers: replaced, deep, several on one site, with their hidden layers kept or dropped."""
