# find_package(ste_core) defines ste::core: the ops of ste-core, with <ste/ops.h>, built for the torch that it finds.
#
# It looks for torch as find_package(Torch) does: in Torch_DIR, and in CMAKE_PREFIX_PATH, to which you add
# torch.utils.cmake_prefix_path. It needs neither Python nor a CUDA toolkit.

set(ste_core_FOUND FALSE)
foreach(ste_prefix IN LISTS Torch_DIR CMAKE_PREFIX_PATH)
  foreach(ste_suffix IN ITEMS "" "/Torch" "/share/cmake/Torch")
    if(NOT DEFINED ste_torch_cmake AND EXISTS "${ste_prefix}${ste_suffix}/TorchConfigVersion.cmake")
      set(ste_torch_cmake "${ste_prefix}${ste_suffix}")
    endif()
  endforeach()
endforeach()
if(NOT DEFINED ste_torch_cmake)
  set(
    ste_core_NOT_FOUND_MESSAGE
    "torch is not found: add torch.utils.cmake_prefix_path to CMAKE_PREFIX_PATH, or set Torch_DIR"
  )
  return()
endif()

file(STRINGS "${ste_torch_cmake}/TorchConfigVersion.cmake" ste_line REGEX "PACKAGE_VERSION \"")
string(REGEX MATCH "([0-9]+\\.[0-9]+)[^\"]*" ste_torch_version "${ste_line}")
set(ste_torch_minor "${CMAKE_MATCH_1}")
cmake_path(SET ste_root NORMALIZE "${CMAKE_CURRENT_LIST_DIR}/../../..")
set(ste_folder "${ste_root}/torch-${ste_torch_minor}")
if(NOT EXISTS "${ste_folder}/build.json")
  file(GLOB ste_carried RELATIVE "${ste_root}" "${ste_root}/torch-*")
  list(JOIN ste_carried ", " ste_carried)
  set(
    ste_core_NOT_FOUND_MESSAGE
    "torch ${ste_torch_version} is found in ${ste_torch_cmake}, but this ste-core is built for: ${ste_carried}"
  )
  return()
endif()

if(NOT TARGET ste::core)
  if(NOT TARGET ste::torch)
    include("${CMAKE_CURRENT_LIST_DIR}/SteTorchTarget.cmake")
    file(READ "${ste_folder}/build.json" ste_build)
    string(JSON ste_cxx11_abi GET "${ste_build}" cxx11_abi)
    cmake_path(SET ste_torch_root NORMALIZE "${ste_torch_cmake}/../../..")
    ste_add_torch("${ste_torch_root}" "${ste_cxx11_abi}")
    if(CMAKE_SYSTEM_NAME STREQUAL "Linux")
      # A CUDA build of torch needs libraries that the loader finds next to torch's own, and the linker does not.
      target_link_options(ste_torch INTERFACE LINKER:--allow-shlib-undefined)
    endif()
  endif()
  add_library(ste::core SHARED IMPORTED)
  find_library(ste_library NAMES ste PATHS "${ste_folder}" NO_DEFAULT_PATH NO_CACHE REQUIRED)
  if(WIN32)
    set_target_properties(ste::core PROPERTIES IMPORTED_IMPLIB "${ste_library}" IMPORTED_LOCATION "${ste_folder}/ste.dll")
  else()
    set_target_properties(ste::core PROPERTIES IMPORTED_LOCATION "${ste_library}")
  endif()
  target_include_directories(ste::core SYSTEM INTERFACE "${ste_root}/include")
  target_compile_features(ste::core INTERFACE cxx_std_20)
  target_link_libraries(ste::core INTERFACE ste::torch)
endif()
set(ste_core_FOUND TRUE)
