"""The network that runs in the page."""
