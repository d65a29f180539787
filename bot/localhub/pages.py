"""The web page; see the next commit."""
ROUTES = []
