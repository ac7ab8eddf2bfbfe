# Decides whether to compile the CUDA kernels, by STE_CUDA: OFF (the default), ON (an error if they cannot be compiled),
# or AUTO (if torch and the toolkit have the same version of CUDA). Sets STE_WITH_CUDA, and if it is on, defines
# ste::torch_cuda.
#
# Include it after SteTorch, and at the top level of a project, because it enables a language.

set(STE_CUDA OFF CACHE STRING "Compile the CUDA kernels: ON, OFF, or AUTO")
set_property(CACHE STE_CUDA PROPERTY STRINGS ON OFF AUTO)
set(STE_WITH_CUDA OFF)

if(STE_CUDA)
  include(CheckLanguage)
  check_language(CUDA)
  if(STE_TORCH_CUDA STREQUAL "")
    set(ste_cuda_obstacle "torch ${STE_TORCH_VERSION} is a CPU build")
  elseif(NOT CMAKE_CUDA_COMPILER)
    set(ste_cuda_obstacle "there is no nvcc, but torch ${STE_TORCH_VERSION} is for CUDA ${STE_TORCH_CUDA}")
  else()
    if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
      set(CMAKE_CUDA_ARCHITECTURES 80 90)
    endif()
    set(CMAKE_CUDA_RUNTIME_LIBRARY Shared)
    enable_language(CUDA)
    if(NOT CMAKE_CUDA_COMPILER_VERSION MATCHES "^${STE_TORCH_CUDA}[.]")
      set(
        ste_cuda_obstacle
        "nvcc is from CUDA ${CMAKE_CUDA_COMPILER_VERSION}, but torch ${STE_TORCH_VERSION} is for CUDA ${STE_TORCH_CUDA}"
      )
    endif()
  endif()
  if(NOT DEFINED ste_cuda_obstacle)
    set(STE_WITH_CUDA ON)
  elseif(STE_CUDA STREQUAL "AUTO")
    message(STATUS "No CUDA kernels: ${ste_cuda_obstacle}")
  else()
    message(FATAL_ERROR "STE_CUDA=${STE_CUDA}, but ${ste_cuda_obstacle}.")
  endif()
endif()

if(STE_WITH_CUDA)
  message(STATUS "CUDA kernels with nvcc ${CMAKE_CUDA_COMPILER_VERSION} for ${CMAKE_CUDA_ARCHITECTURES}")
  foreach(library IN ITEMS c10_cuda torch_cuda)
    find_library(STE_LIBRARY_${library} ${library} PATHS "${torch_root}/lib" NO_DEFAULT_PATH NO_CACHE REQUIRED)
  endforeach()
  add_library(ste_torch_cuda INTERFACE)
  add_library(ste::torch_cuda ALIAS ste_torch_cuda)
  target_link_libraries(ste_torch_cuda INTERFACE ste::torch "${STE_LIBRARY_torch_cuda}" "${STE_LIBRARY_c10_cuda}")
  # What torch's own headers include, from the packages that torch depends on: a toolkit may lack some.
  string(REGEX MATCH "^[0-9]+" ste_cuda_major "${STE_TORCH_CUDA}")
  cmake_path(GET torch_root PARENT_PATH ste_site_packages)
  file(GLOB ste_cuda_headers "${ste_site_packages}/nvidia/cu${ste_cuda_major}/include")
  target_include_directories(
    ste_torch_cuda SYSTEM INTERFACE "$<$<COMPILE_LANGUAGE:CUDA>:${ste_cuda_headers}>"
  )
  # The flags that torch compiles its own kernels with.
  target_compile_options(
    ste_torch_cuda
    INTERFACE
      $<$<COMPILE_LANGUAGE:CUDA>:--extended-lambda
      --expt-relaxed-constexpr
      -D__CUDA_NO_HALF_OPERATORS__
      -D__CUDA_NO_HALF_CONVERSIONS__
      -D__CUDA_NO_BFLOAT16_CONVERSIONS__
      -D__CUDA_NO_HALF2_OPERATORS__>
  )
endif()
