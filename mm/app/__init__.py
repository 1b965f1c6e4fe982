"""The local page over runs and their index. It computes nothing of its own: each tab asks the library and shows."""
