# The engine: a static library for the shim and the fuzzers, and a shared one that Python opens with cffi.
set(engine_sources
  ${CMAKE_CURRENT_SOURCE_DIR}/engine.c
  ${CMAKE_CURRENT_SOURCE_DIR}/engine_exact.c
  ${CMAKE_CURRENT_SOURCE_DIR}/engine_explain.c
  ${CMAKE_CURRENT_SOURCE_DIR}/engine_expression.c
  ${CMAKE_CURRENT_SOURCE_DIR}/engine_late.c
  ${CMAKE_CURRENT_SOURCE_DIR}/engine_late_step.c
  ${CMAKE_CURRENT_SOURCE_DIR}/engine_lock.c
  ${CMAKE_CURRENT_SOURCE_DIR}/engine_merge.c
  ${CMAKE_CURRENT_SOURCE_DIR}/engine_replay.c
  ${CMAKE_CURRENT_SOURCE_DIR}/engine_state.c
  ${CMAKE_CURRENT_SOURCE_DIR}/engine_step.c
  ${CMAKE_CURRENT_SOURCE_DIR}/engine_table.c
  ${CMAKE_CURRENT_SOURCE_DIR}/engine_valuations.c)

add_library(sekisho-engine STATIC ${engine_sources})
target_include_directories(sekisho-engine PUBLIC ${CMAKE_CURRENT_SOURCE_DIR})
target_link_libraries(sekisho-engine PUBLIC hardening)

# The header gives the functions default visibility for this library only; within the shim they stay hidden.
add_library(engine-shared SHARED ${engine_sources})
target_compile_definitions(engine-shared PRIVATE SEKISHO_SHARED)
target_link_libraries(engine-shared PRIVATE hardening)
set_target_properties(engine-shared PROPERTIES OUTPUT_NAME sekisho-engine)

install(TARGETS engine-shared LIBRARY DESTINATION sekisho/engine)
install(FILES engine.h DESTINATION sekisho/engine)
