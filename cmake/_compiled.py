"""Comes with what is compiled: to import it lets an editable installation compile what has changed."""
