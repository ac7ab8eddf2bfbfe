# Defines ste::torch (the C++ library) and ste::torch_python (its Python half) from the torch that Python imports.
#
# Not find_package(Torch): for a CUDA build of torch that fails fatally on a machine without the complete CUDA toolkit,
# even where only C++ is compiled.
#
# Also sets STE_TORCH_VERSION ("2.13.0+cpu"), STE_TORCH_MINOR ("2.13") and STE_TORCH_CUDA ("13.0", or "" for a CPU build).

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
      "ste-core is compiled against the torch that it will run with, and ${Python_EXECUTABLE} cannot import torch.\n"
      "Install torch, then: pip install scikit-build-core pybind11 && pip install --no-build-isolation ste-core\n"
      "${failure}"
  )
endif()

string(REPLACE "\n" ";" answer "${answer}")
list(GET answer 0 STE_TORCH_VERSION)
list(GET answer 1 STE_TORCH_CUDA)
list(GET answer 2 torch_root)
list(GET answer 3 cxx11_abi)
string(REGEX MATCH "^[0-9]+\\.[0-9]+" STE_TORCH_MINOR "${STE_TORCH_VERSION}")
if(STE_TORCH_MINOR VERSION_LESS 2.6)
  message(FATAL_ERROR "ste-core needs torch 2.6 or later, and ${Python_EXECUTABLE} has torch ${STE_TORCH_VERSION}.")
endif()
message(STATUS "torch ${STE_TORCH_VERSION} in ${torch_root}")

add_library(ste_torch INTERFACE)
add_library(ste::torch ALIAS ste_torch)
target_include_directories(
  ste_torch SYSTEM INTERFACE "${torch_root}/include" "${torch_root}/include/torch/csrc/api/include"
)
target_compile_definitions(ste_torch INTERFACE _GLIBCXX_USE_CXX11_ABI=${cxx11_abi})
add_library(ste_torch_python INTERFACE)
add_library(ste::torch_python ALIAS ste_torch_python)
target_link_libraries(ste_torch_python INTERFACE ste::torch)

foreach(library IN ITEMS c10 torch_cpu torch torch_python)
  # NO_CACHE: a build folder that is used again must not link the torch that it was first used with.
  find_library(STE_LIBRARY_${library} ${library} PATHS "${torch_root}/lib" NO_DEFAULT_PATH NO_CACHE REQUIRED)
endforeach()
target_link_libraries(ste_torch INTERFACE "${STE_LIBRARY_torch}" "${STE_LIBRARY_torch_cpu}" "${STE_LIBRARY_c10}")
target_link_libraries(ste_torch_python INTERFACE "${STE_LIBRARY_torch_python}")
