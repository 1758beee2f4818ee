"""The `tinykv` command. Exit status: 0 clean, 1 failed, 2 bad usage, 3 the stop had to be forced, 130 interrupted.

```
root        the command group; a command's module is loaded when the command is used
options     options that commands share, where their values come from
servers     scheduler, store                        serving    what both do
data        get, put, delete, scan                  text       keys and values as people write them
cluster     status, regions, stores                 tables     for terminals, pipes and programs
session     what every command of a client does
playground  a whole cluster on this machine             bench      its speed, beside etcd
doctor      what waits for what in a live server        sim        simulated clusters
```
"""

from __future__ import annotations

from pytinykv.cli.root import main

__all__ = ["main"]
