"""Bus adapters: the ports of ``state_builder.ports`` on NATS JetStream, and in memory.

``topology`` says what exists (streams, consumers, buckets, subjects) as data,
``appends`` joins appends that are ready together, ``nats`` alone speaks to the broker,
``memory`` is its twin for tests, simulation and the one-process fleet.
One contract suite (``tests/contract``) holds both to the same promises.
"""
