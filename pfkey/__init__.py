"""PF_KEY v2 (RFC 2367) for programs: formats, messages, setkey and the `pfkey` command."""
