"""The life of a lock with a client that openapi-python-client made: generated.py URL."""

import importlib
import pkgutil
import sys

import rdlm_client
from rdlm_client.api.default import acquire_lock, get_lock, list_locks, release_lock, renew_lock
from rdlm_client.models import (
    ActiveLock,
    Conversion,
    ConversionMode,
    LockRequest,
    Problem,
    Renewal,
    WaitingLock,
)

# What is not used here has to be sound, too.
for module in pkgutil.walk_packages(rdlm_client.__path__, "rdlm_client."):
    importlib.import_module(module.name)

client = rdlm_client.Client(sys.argv[1], timeout=60)
request = LockRequest(title="generated", wait=0, lifetime=60)
granted = acquire_lock.sync("life", client=client, body=request)
assert isinstance(granted, ActiveLock), granted
refused = acquire_lock.sync("life", client=client, body=request)
assert isinstance(refused, Problem) and refused.status == 408, refused
renewed = renew_lock.sync("life", granted.uid, client=client, body=Renewal(lifetime=30))
assert isinstance(renewed, ActiveLock) and renewed.lifetime == 30, renewed
assert renewed.fencing_token == granted.fencing_token
shared = Conversion(mode=ConversionMode.SHARED, wait=1)
converted = renew_lock.sync("life", granted.uid, client=client, body=shared)
assert isinstance(converted, ActiveLock) and converted.mode == "PR", converted
found = get_lock.sync("life", granted.uid, client=client)
assert isinstance(found, (ActiveLock, WaitingLock)) and found.active is True, found
listed = list_locks.sync("life", client=client)
assert listed.field_embedded.locks[0].title == "generated", listed
released = release_lock.sync_detailed("life", granted.uid, client=client)
assert released.status_code == 204, released
gone = release_lock.sync_detailed("life", granted.uid, client=client)
assert gone.status_code == 404, gone
