"""Typed configuration: pydantic models, one file a concern; `load.py` alone reads YAML and env."""
