"""The values and errors that every layer shares; imports nothing of ours."""
