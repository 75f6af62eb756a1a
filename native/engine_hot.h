#ifndef SEKISHO_ENGINE_HOT_H
#define SEKISHO_ENGINE_HOT_H

/* On the way of every request. The linker puts such functions close together: after an exit each page of code costs, too. */
#define HOT __attribute__((hot))

#endif
