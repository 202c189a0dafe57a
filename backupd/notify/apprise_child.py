"""The child process in which Apprise runs. It reads one request from standard input and answers by its exit code only."""

import json
import sys

NOT_DELIVERED, MISSING, NO_ADDRESS = 10, 11, 12


def _child() -> int:
    try:
        import apprise
    except ImportError:
        return MISSING
    asked = json.loads(sys.stdin.buffer.read())
    # nothing of it is kept on disk
    where = apprise.Apprise(asset=apprise.AppriseAsset(storage_mode=apprise.PersistentStoreMode.MEMORY))
    if not asked["urls"] or not all(where.add(url) for url in asked["urls"]):
        return NO_ADDRESS
    body_format = apprise.NotifyFormat.TEXT  # names are no markup, whatever the service takes
    kind = apprise.NotifyType(asked["type"])
    told = where.notify(body=asked["body"], title=asked["title"], notify_type=kind, body_format=body_format)
    return 0 if told else NOT_DELIVERED


if __name__ == "__main__":
    sys.exit(_child())
