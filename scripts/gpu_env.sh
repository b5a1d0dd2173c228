# shellcheck shell=bash
# Source it in bash before you start Python on a GPU: `source scripts/gpu_env.sh`. The run_*.sh wrappers source it
# themselves. Adds the libraries of requirements-gpu.txt and of MindSpore to LD_LIBRARY_PATH, and sets CUDA_HOME, which
# MindSpore needs to load its GPU backend. `python scripts/check_gpu.py` then lists what is still missing.

expose_gpu_libraries() {
  local scripts folders
  scripts=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")" && pwd)
  folders=$("${PYTHON:-python}" "$scripts/check_gpu.py" --folders) || return
  export LD_LIBRARY_PATH=$folders${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
  export CUDA_HOME=$scripts/cuda_home
}
expose_gpu_libraries
