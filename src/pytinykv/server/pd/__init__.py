"""`pdpb.PD` on a scheduler: what stores report and ask, and what clients ask.

convert       messages of the wire to and from the scheduler's records
regions       questions about regions, by key and by id
heartbeats    the stream on which regions report and get their orders
service       all methods; what each checks before it asks the scheduler
"""

from __future__ import annotations
