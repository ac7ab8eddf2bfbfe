# Defines ste::warnings, the warnings for our own code. STE_WERROR=ON makes them errors.

option(STE_WERROR "Treat compiler warnings as errors" OFF)

add_library(ste_warnings INTERFACE)
add_library(ste::warnings ALIAS ste_warnings)
if(MSVC)
  target_compile_options(ste_warnings INTERFACE $<$<COMPILE_LANGUAGE:CXX>:/W4 $<$<BOOL:${STE_WERROR}>:/WX>>)
else()
  target_compile_options(
    ste_warnings
    INTERFACE
      $<$<COMPILE_LANGUAGE:CXX>:-Wall
      -Wextra
      -Wpedantic
      -Wshadow
      -Wconversion
      $<$<BOOL:${STE_WERROR}>:-Werror>>
      # 186: code for all dtypes compares an unsigned number with 0.
      $<$<COMPILE_LANGUAGE:CUDA>:-diag-suppress=186 $<$<BOOL:${STE_WERROR}>:-Werror=all-warnings>>
  )
endif()
