"""`serve-app doctor`: check this machine, and its cluster, against a config."""
