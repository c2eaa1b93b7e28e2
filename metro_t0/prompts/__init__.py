"""Data sets by name, promptsource templates, sandboxed rendering."""

MAX_VARIABLE_LENGTH = 2048
"""Characters kept of every substituted expression (promptsource's default, inherited by T0 and METRO-T0)."""
