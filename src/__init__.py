"""BEiT fine-tuning for MindSpore."""

import importlib.util
import os
import sys

# MindSpore itself is not required here: the reference environment of the golden tests has these packages without it.
_MISSING = [name for name in ("numpy", "PIL", "yaml") if importlib.util.find_spec(name) is None]
if _MISSING:
    print(
        f"error: {sys.executable} has no {', '.join(_MISSING)}; activate the environment (source .venv/bin/activate) "
        "or install the packages (pip install -r requirements.txt)",
        file=sys.stderr,
    )
    raise SystemExit(2)

# MindSpore reads its log level once, when it is imported. The default level prints dozens of lines about connection
# retries, thread counts and optional packages; level 3 prints errors only. GLOG_v=2 in the environment restores them.
os.environ.setdefault("GLOG_v", "3")
