"""BEiT fine-tuning for MindSpore."""

import os

# MindSpore reads this once, when it is imported. At its default level it prints dozens of lines about its own workings
# (connection retries, thread counts, versions of packages it can do without); errors stay visible. GLOG_v=2 in the
# environment brings the lines back.
os.environ.setdefault("GLOG_v", "3")
