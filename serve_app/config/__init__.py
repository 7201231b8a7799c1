"""Typed configuration: pydantic models, one file a concern; only `reader.py` reads YAML and env."""
