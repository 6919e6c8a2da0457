"""Developers' tools, which no user needs and the wheel leaves out."""
