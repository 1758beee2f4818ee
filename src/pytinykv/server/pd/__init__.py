"""`pdpb.PD` on a scheduler: what stores report and ask, and what clients and administrators ask.

convert       messages of the wire to and from the scheduler's records
regions       lookups of regions, by key and by id
heartbeats    the stream on which leaders report their regions and get orders
admin         calls of our own beside PD's: removing stores, moving leaders, listing operators
service       all methods, and what is checked before the scheduler is asked
"""

from __future__ import annotations
