"""`pfkey run`: programs written for AF_KEY, unmodified, on a kernel that has none."""
