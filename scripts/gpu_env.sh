# shellcheck shell=bash
# Source it in bash before starting Python on a GPU: `source scripts/gpu_env.sh`. The run_*.sh wrappers do so by
# themselves. Puts the libraries of requirements-gpu.txt and MindSpore's own onto LD_LIBRARY_PATH, and sets CUDA_HOME to
# what makes MindSpore look for its GPU back end. `python scripts/check_gpu.py` then says what is still missing.

expose_gpu_libraries() {
  local scripts folders
  scripts=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")" && pwd)
  folders=$("${PYTHON:-python}" "$scripts/check_gpu.py" --folders) || return
  export LD_LIBRARY_PATH=$folders${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
  export CUDA_HOME=$scripts/cuda_home
}
expose_gpu_libraries
