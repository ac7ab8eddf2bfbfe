# Defines ste::warnings: what our own code is compiled with. STE_WERROR=ON makes each of them an error.

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
      # 186: what is written for all dtypes compares an unsigned number with 0.
      $<$<COMPILE_LANGUAGE:CUDA>:-diag-suppress=186 $<$<BOOL:${STE_WERROR}>:-Werror=all-warnings>>
  )
endif()
