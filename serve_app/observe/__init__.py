"""Metrics and the access log, for operators."""
