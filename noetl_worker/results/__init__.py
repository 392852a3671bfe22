"""Large values: where they are kept, and how they are found again.

Purpose: the stores beside the broker's own (a directory, S3, GCS, Azure), names and
digests of what is kept, a bounded cache of what was fetched, the budget of results and
contexts. May import the core's ports and ``obstore``.

Invariants: a value is stored before anything names it; what is stored under a name
never changes; a value is proven by its digest before anybody sees it; nothing here
holds more of a value in memory than its caller asked for.
"""
