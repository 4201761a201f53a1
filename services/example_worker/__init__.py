"""A webhook relay: posts events to their subscribers, signed and retried, and sends each a digest of every batch.

`worker run services.example_worker` finds the one service here. A process that only enqueues imports
`services.example_worker.queues`, the contract.
"""

from services.example_worker.relay import WebhookRelay

__all__ = ["WebhookRelay"]
