"""The table of message-framing cases and the program that feeds it to a server."""
