"""mrkd on Ray: the only part that imports it.

Importing this package gives a Ray of this machine a token of its own. Ray's ports are open on all
interfaces, and anyone who reaches them may run anything here unless a token is required; Ray reads
these variables when it is imported, not when it is started.
"""

import os
import secrets
import sys

if "ray" not in sys.modules and not {"RAY_ADDRESS", "RAY_AUTH_MODE"} & os.environ.keys():
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
