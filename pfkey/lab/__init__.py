"""Hosts as network namespaces, and the FAQ examples that run on them."""
