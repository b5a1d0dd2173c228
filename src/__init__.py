"""BEiT fine-tuning for MindSpore."""

import importlib.util
import os
import sys

# Whoever has not switched on the environment is told so. (That of the reference has all these, and no MindSpore.)
_MISSING = [name for name in ("numpy", "PIL", "yaml") if importlib.util.find_spec(name) is None]
if _MISSING:
    print(
        f"error: {sys.executable} has no {', '.join(_MISSING)}: switch the environment on (source .venv/bin/activate), "
        "or install what is missing (pip install -r requirements.txt)",
        file=sys.stderr,
    )
    raise SystemExit(2)

# MindSpore reads this once, when it is imported. At its default level it prints dozens of lines about its own workings
# (connection retries, thread counts, versions of packages it can do without); errors stay visible. GLOG_v=2 in the
# environment brings the lines back.
os.environ.setdefault("GLOG_v", "3")
