"""Sans-IO: packets change clothes here; no lookups outside, no sockets, no clock."""
