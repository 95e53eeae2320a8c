"""mrkd on Ray: the only part that imports it.

Importing this package gives a Ray of this machine a token of its own. Ray's ports are open on all
interfaces, and anyone who reaches them may run anything here unless a token is required; Ray reads
these variables when it is imported, not when it is started. So it does those of `_DEFAULTS`.
"""

import os
import secrets
import sys

if "ray" not in sys.modules and not {"RAY_ADDRESS", "RAY_AUTH_MODE"} & os.environ.keys():
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}

_DEFAULTS = {
    # Its lines about nodes that come and go are printed on stdout, whose last line is the summary.
    "RAY_SCHEDULER_EVENTS": "0",
    # Nodes of each kind that Ray Data asks for at one time, every ten seconds; by default one.
    "RAY_DATA_CLUSTER_SCALING_UP_DELTA": "8",
}
for _name, _value in _DEFAULTS.items():
    os.environ.setdefault(_name, _value)
