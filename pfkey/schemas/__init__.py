"""Schemas of the JSON documents that the commands print."""
