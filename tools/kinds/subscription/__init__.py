"""``subscription`` in a step: a bounded drain of an external source (TL §3.16)."""

from tools.kinds.subscription.kind import Subscription

__all__ = ["Subscription"]
