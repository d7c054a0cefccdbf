"""Room 14: chat in a terminal, in a browser, over HTTP."""
