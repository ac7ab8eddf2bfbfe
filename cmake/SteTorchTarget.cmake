# ste_add_torch(<folder of torch> <0 or 1: its C++11 ABI>) defines ste::torch, torch's C++ library.
#
# Not find_package(Torch): for a CUDA build of torch, that fails fatally on a machine without the complete CUDA toolkit,
# even if only C++ is compiled.

function(ste_add_torch root cxx11_abi)
  add_library(ste_torch INTERFACE)
  add_library(ste::torch ALIAS ste_torch)
  target_include_directories(ste_torch SYSTEM INTERFACE "${root}/include" "${root}/include/torch/csrc/api/include")
  target_compile_definitions(ste_torch INTERFACE _GLIBCXX_USE_CXX11_ABI=${cxx11_abi})
  foreach(library IN ITEMS torch torch_cpu c10)
    # NO_CACHE: a build folder that is used again must not link the torch of its first use.
    find_library(STE_LIBRARY_${library} ${library} PATHS "${root}/lib" NO_DEFAULT_PATH NO_CACHE REQUIRED)
    target_link_libraries(ste_torch INTERFACE "${STE_LIBRARY_${library}}")
  endforeach()
endfunction()
