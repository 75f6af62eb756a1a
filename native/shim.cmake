# The shim: preloaded into the VMM, so it exports what it interposes and nothing else, and needs no library but libc.
add_library(shim SHARED
  ${CMAKE_CURRENT_SOURCE_DIR}/shim.c
  ${CMAKE_CURRENT_SOURCE_DIR}/shim_denial.c
  ${CMAKE_CURRENT_SOURCE_DIR}/shim_lock.c
  ${CMAKE_CURRENT_SOURCE_DIR}/shim_pci.c
  ${CMAKE_CURRENT_SOURCE_DIR}/shim_ring.c
  ${CMAKE_CURRENT_SOURCE_DIR}/shim_run.c
  ${CMAKE_CURRENT_SOURCE_DIR}/shim_vm.c
  ${CMAKE_CURRENT_SOURCE_DIR}/locate.c)
target_link_libraries(shim PRIVATE sekisho-engine hardening)
target_link_options(shim PRIVATE -Wl,--exclude-libs,ALL)
set_target_properties(shim PROPERTIES OUTPUT_NAME sekisho-shim)

install(TARGETS shim LIBRARY DESTINATION sekisho/monitor)
