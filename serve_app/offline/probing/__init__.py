"""What the fast model's own signals are worth, and labels that a service makes by itself."""
