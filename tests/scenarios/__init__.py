"""Scenarios: processes, signals, failures and load against a whole server."""
