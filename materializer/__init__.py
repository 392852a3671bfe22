"""The log, copied into PostgreSQL for people and audits.

The only package with SQL for ``noetl.*`` tables, and the only writer of event rows.
Sees records, chain and ports of the core, never its state or drive: a row is what the
log says, not what somebody concluded from it. Position and rows commit together, so
reading any part of the log again changes nothing.
"""
