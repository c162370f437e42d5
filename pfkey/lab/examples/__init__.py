"""The FAQ's files, as they stand there."""
