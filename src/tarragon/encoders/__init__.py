"""Encoders: one library a file, imported only when it is used."""
