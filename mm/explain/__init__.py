"""Explanations: what in a picture or a sound an answer came from."""
