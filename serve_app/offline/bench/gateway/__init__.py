"""The gateway alone: a real Router before an engine that answers with recorded bytes."""
