"""Generated protobuf modules of TiKV's and PD's protocol, and of our own `adminpb`.

`tools/gen_proto.py` makes them from the `.proto` files here. They live in a descriptor pool of their own, so that another
library which defines the same messages (any other TiKV client) can be imported into the same process.
"""

from __future__ import annotations

from google.protobuf.descriptor_pool import DescriptorPool

POOL = DescriptorPool()
