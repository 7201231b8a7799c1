"""Batches of calls: files, a ledger of what is done, and the worker that does the rest."""
