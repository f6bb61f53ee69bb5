"""The swarm as an ordinary model server: one more client of it, which speaks HTTP. Imports no torch.

`app` says which route is whose; `openai` and `anthropic` are what each interface reads and writes; `answers` runs answers
in sessions of the swarm, of which `sessions` decides which goes on from what is cached; `exchange` is one request.
"""
