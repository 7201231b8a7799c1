"""Limits of callers that hold over all Routers: requests, tokens, money and calls at a time."""
