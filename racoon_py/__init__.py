"""The IKE daemon: one more PF_KEY application. It is built in later work."""
