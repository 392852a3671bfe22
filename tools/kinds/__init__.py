"""One room per kind of tool; kinds are strangers to each other.

May import doors, ``auth``, ``sql``, contract and errors. A kind never renders a text,
never reads the environment and never starts a process or a connection but by a door.
"""
