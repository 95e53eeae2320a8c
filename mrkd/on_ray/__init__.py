"""mrkd on Ray: the only part that imports it.

Importing this package gives a Ray of this machine a token of its own. Ray's ports are open on all
interfaces, and whoever reaches them may run anything here unless a token is asked for; and Ray
reads what is said of that when it is imported, not when it is started.
"""

import os
import secrets
import sys

if "ray" not in sys.modules and not {"RAY_ADDRESS", "RAY_AUTH_MODE"} & os.environ.keys():
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
