"""The calling end of `pdpb.PD`: finds the scheduler's leader, and asks it.

leader_finder       which endpoint leads, of the one cluster that the client belongs to
scheduler_client    all calls
timestamp_stream    timestamps, many callers to a request
heartbeat_stream    a store's reports of its regions, and the orders that come back
"""

from __future__ import annotations
