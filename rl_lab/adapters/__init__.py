"""Adapters make environments of other frameworks usable here, and the lab's worlds usable there."""
