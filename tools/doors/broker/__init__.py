"""The way out to NATS: connections by address, JetStream, buckets, objects.

The only importer of nats among the tools. What belongs to the platform itself, its log
and its buckets, stays out of reach of playbooks (TL-NA-05).
"""
