"""A table with indexes: users by id, found by their city, and no two with one e-mail address.

    python examples/secondary_index.py [SCHEDULER]

    user:<id>                   the row
    by-city:<city>:<id>         an entry for each row; empty, the key says all
    by-email:<email>            the id; `insert` keeps it unique

Row and entries change in one transaction, so that no reader ever finds one without the other.
"""

from __future__ import annotations

import json
import sys
from functools import partial

import pytinykv

User = dict[str, str]


def row(user_id: str) -> bytes:
    return b"user:" + user_id.encode()


def city_entry(city: str, user_id: str = "") -> bytes:
    return f"by-city:{city}:{user_id}".encode()


def email_entry(email: str) -> bytes:
    return f"by-email:{email}".encode()


def save(txn: pytinykv.Transaction, user_id: str, user: User) -> None:
    """Add a user, or change one. The commit raises `KeyExistsError` if another has the same e-mail address."""
    before = get(txn, user_id)
    if before is not None:
        txn.delete(city_entry(before["city"], user_id))
    if before is None or before["email"] != user["email"]:
        if before is not None:
            txn.delete(email_entry(before["email"]))
        txn.insert(email_entry(user["email"]), user_id.encode())
    txn.put(city_entry(user["city"], user_id), b"")
    txn.put(row(user_id), json.dumps(user).encode())


def get(reads: pytinykv.Transaction | pytinykv.Snapshot, user_id: str) -> User | None:
    found = reads.get(row(user_id))
    return None if found is None else json.loads(found)


def find_by_city(reads: pytinykv.Transaction | pytinykv.Snapshot, city: str) -> list[str]:
    prefix = city_entry(city)
    ids = [key.removeprefix(prefix).decode() for key, _ in reads.scan(prefix=prefix, key_only=True)]
    rows = reads.get_many(row(user_id) for user_id in ids)
    return [json.loads(rows[row(user_id)])["name"] for user_id in ids]


def main(address: str) -> None:
    people = {
        "1": {"name": "Ada", "city": "London", "email": "ada@example.org"},
        "2": {"name": "Grace", "city": "New York", "email": "grace@example.org"},
        "3": {"name": "Alan", "city": "London", "email": "alan@example.org"},
    }
    with pytinykv.connect(address) as db:
        with db.transaction() as txn:
            for prefix in (b"user:", b"by-city:", b"by-email:"):
                for key, _ in txn.scan(prefix=prefix, key_only=True):
                    txn.delete(key)
        for user_id, user in people.items():
            db.run(partial(save, user_id=user_id, user=user))
        before = db.snapshot()
        print("in London:", find_by_city(before, "London"))
        db.run(lambda txn: save(txn, "1", people["1"] | {"city": "New York"}))
        print("after Ada has moved:", find_by_city(db.snapshot(), "London"), find_by_city(db.snapshot(), "New York"))
        print("the snapshot from before still says:", find_by_city(before, "London"))
        try:
            db.run(lambda txn: save(txn, "4", people["2"]))
        except pytinykv.KeyExistsError as error:
            print("refused:", error.key.decode())


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:2379")
