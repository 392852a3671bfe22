"""Long-lived tasks: owner (system role), executor (worker role).

Daemons speak to ports and never to a driver; ``roles`` gives them adapters. Each is
owned by one task group and stops in order: stop taking, finish, hand over, close.
"""
