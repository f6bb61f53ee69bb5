"""Every message that crosses the wire, one frozen struct each, validated when decoded.

Names a model, a part, a session: never code, a path or a memory address. Knows neither sockets nor bytes.
Channels: everything travels on `control` except Steps, Credit, Probe, their answers and Tokens, which travel on `data`.
"""
