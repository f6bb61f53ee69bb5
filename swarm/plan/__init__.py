"""Decides who should hold what and which chain an answer takes. Pure: figures in, placements out."""
