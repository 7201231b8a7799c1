"""`serve-app doctor`: this machine, and the cluster it belongs to, against a config."""
