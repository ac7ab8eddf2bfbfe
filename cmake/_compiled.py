"""Installed with the compiled files: importing it makes an editable installation compile what has changed."""
