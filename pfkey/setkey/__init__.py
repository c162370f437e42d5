"""setkey(8): the language, the messages it sends, and its output."""
