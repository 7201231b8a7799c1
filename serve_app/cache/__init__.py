"""The cache of whole answers: a repeated call is answered without an engine."""
