"""Encoders: feature pyramids that several networks could share, with the key names of public weights."""
