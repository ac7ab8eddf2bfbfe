# Defines ste::torch (the C++ library) and ste::torch_python (its Python part) from the torch that Python imports. Sets
# STE_TORCH_VERSION ("2.13.0+cpu"), STE_TORCH_MINOR ("2.13"), STE_TORCH_CUDA ("13.0", or "" for a CPU build) and
# STE_TORCH_CXX11_ABI (0 or 1).

execute_process(
  COMMAND
    "${Python_EXECUTABLE}" -c
    "import torch; print(torch.__version__, torch.version.cuda or '', torch.__path__[0], int(torch.compiled_with_cxx11_abi()), sep='\\n')"
  OUTPUT_VARIABLE answer
  ERROR_VARIABLE failure
  RESULT_VARIABLE status
  OUTPUT_STRIP_TRAILING_WHITESPACE
)
if(NOT status EQUAL 0)
  message(
    FATAL_ERROR
      "ste-core is compiled against the torch that it will run with, but ${Python_EXECUTABLE} cannot import torch.\n"
      "Install torch, then: pip install scikit-build-core pybind11 && pip install --no-build-isolation ste-core\n"
      "${failure}"
  )
endif()

string(REPLACE "\n" ";" answer "${answer}")
list(GET answer 0 STE_TORCH_VERSION)
list(GET answer 1 STE_TORCH_CUDA)
list(GET answer 2 torch_root)
list(GET answer 3 STE_TORCH_CXX11_ABI)
string(REGEX MATCH "^[0-9]+\\.[0-9]+" STE_TORCH_MINOR "${STE_TORCH_VERSION}")
if(STE_TORCH_MINOR VERSION_LESS 2.6)
  message(FATAL_ERROR "ste-core requires torch 2.6 or later, but ${Python_EXECUTABLE} has torch ${STE_TORCH_VERSION}.")
endif()
message(STATUS "torch ${STE_TORCH_VERSION} in ${torch_root}")

include(SteTorchTarget)
ste_add_torch("${torch_root}" "${STE_TORCH_CXX11_ABI}")
add_library(ste_torch_python INTERFACE)
add_library(ste::torch_python ALIAS ste_torch_python)
# NO_CACHE: a build folder that is used again must not link the torch of its first use.
find_library(STE_LIBRARY_torch_python torch_python PATHS "${torch_root}/lib" NO_DEFAULT_PATH NO_CACHE REQUIRED)
target_link_libraries(ste_torch_python INTERFACE ste::torch "${STE_LIBRARY_torch_python}")
