"""The local page over runs and their index. Its tabs compute nothing: each asks the library and shows."""
