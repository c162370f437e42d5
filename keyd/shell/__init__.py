"""The street: trio, sockets, processes, nft and routes. No rule of any RFC lives here."""
