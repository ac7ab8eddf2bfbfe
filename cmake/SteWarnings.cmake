# Defines ste::warnings: what our own code is compiled with. STE_WERROR=ON makes each of them an error.

option(STE_WERROR "Treat compiler warnings as errors" OFF)

add_library(ste_warnings INTERFACE)
add_library(ste::warnings ALIAS ste_warnings)
if(MSVC)
  target_compile_options(ste_warnings INTERFACE /W4 $<$<BOOL:${STE_WERROR}>:/WX>)
else()
  target_compile_options(
    ste_warnings INTERFACE -Wall -Wextra -Wpedantic -Wshadow -Wconversion $<$<BOOL:${STE_WERROR}>:-Werror>
  )
endif()
