"""mm: shared image, text and audio encoders, task heads over them, and an index of what they embed.

Importing this package is light: torch is imported by the modules that use it.
"""

__version__ = "0.2.0"
