"""Serves parts: the machines that decide, and the shells that own sockets, threads, devices and files."""
