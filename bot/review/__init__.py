"""The card's pull request: opened and kept current, checked, commented, commanded, refused.

Whatever comes from a pull request is data here: its branch name, title, comments, and the evidence and card
in it. Nothing of it is run, becomes a path or a command, or stands in a comment without being escaped.
"""
