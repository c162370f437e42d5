"""The key engine: SAD, SPD, PF_KEY rules and the ESP data path."""
