"""A model without torch and a network without sockets, for testing the real decision code in milliseconds."""
