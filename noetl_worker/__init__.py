"""The edges of the fleet, and its wiring: everything that touches the world.

Settings, the bus, the HTTP server, the daemons of each role, the dev stack, the command
line. May import every other package; nobody imports this one. Daemons and the server
speak to ports alone; ``roles`` is the one place that knows which adapter stands behind
them.
"""
