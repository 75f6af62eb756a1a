# Programs that run inside the lab's guests. Static: the guest has no libraries, only busybox and these.
foreach(program attack floppy)
  add_executable(guest-${program} guest/${program}.c)
  set_target_properties(guest-${program} PROPERTIES OUTPUT_NAME ${program})
  target_compile_options(guest-${program} PRIVATE -Wall -Wextra -Werror -O2)
  target_link_options(guest-${program} PRIVATE -static)
  install(TARGETS guest-${program} RUNTIME DESTINATION sekisho/lab/guest)
endforeach()
# Compiled by the lab itself, against the headers of the guest's kernel.
install(FILES guest/mimic/mimic.c DESTINATION sekisho/lab/guest)
