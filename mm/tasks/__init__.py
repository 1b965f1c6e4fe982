"""One file per task: its settings, how it builds model and data, its step, its evaluation."""
