"""How messages become ZeroMQ frames and cross CURVE connections. Knows nothing of sessions, models or placement."""
